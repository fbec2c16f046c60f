# %% [markdown]
# # On a TPU of Colab or Kaggle
#
# The same algorithm runs on one device or on a mesh of them; `MeshConfig` alone says how. **This notebook was executed on eight simulated
# devices of a CPU, with a small model; nobody has run it on a real TPU yet.** Choose a TPU runtime and run all cells; without one it
# simulates eight devices, which shows layouts and not speed.

# %%
import glob
import os
import sys

from IPython import get_ipython

ON_TPU = bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
WHEEL = "alignjax-0.2.0-py3-none-any.whl"  # upload it: `python -m build` makes it

# %% [markdown]
# ## Install
#
# jax must fit the Python: 0.10 below Python 3.12, 0.11 or newer from there on; the wheel says so itself, and `jax[tpu]` beside it brings
# the matching libtpu. Restart the runtime afterwards if jax was imported before.

# %%
JAX = "jax[tpu]>=0.11,<0.13" if sys.version_info >= (3, 12) else "jax[tpu]>=0.10.2,<0.11"
if ON_TPU:
    get_ipython().run_line_magic("pip", f"install -q '{JAX}' ./{WHEEL}")
else:
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    # Simulated devices wait for each other in threads: there must be enough of them, and one program at a time.
    os.environ.update(PJRT_NPROC="16", JAX_CPU_ENABLE_ASYNC_DISPATCH="0")

# %% [markdown]
# ## The mesh
#
# Three axes: `replica` (whole copies), `fsdp` (weights and batch are split) and `tensor` (heads and hidden units are split). -1 takes what is
# left. The product is the number of devices.

# %%
import jax

from alignjax.config import MeshConfig
from alignjax.parallel.mesh import make_mesh

print(jax.device_count(), "x", jax.devices()[0].device_kind)
MESH = MeshConfig(fsdp=-1, tensor=2) if jax.device_count() % 2 == 0 else MeshConfig()
mesh = make_mesh(MESH)
print(dict(mesh.shape))

# %% [markdown]
# ## Train on it
#
# Online IPO on letters, judged by the exact judge; nothing of the algorithm knows of the mesh. Rows of a batch must divide over
# `replica` x `fsdp`.

# %%
import dataclasses

from alignjax import algorithms
from alignjax.exact_tasks import SORTING
from alignjax.models import TransformerConfig, transformer
from alignjax.pipelines import exact_study
from alignjax.roles import fresh
from alignjax.train.loop import train
from alignjax.workspace import Workspace

sizes = exact_study.Sizes(SORTING, policy_batch_size=32, policy_steps=10)
config = TransformerConfig(vocab=sizes.vocab, width=64, layers=2, heads=4, mlp=192)
model = transformer(dataclasses.replace(config, dtype="bfloat16") if ON_TPU else config)
algorithm = algorithms.online_ipo(
    model,
    judge=SORTING.gold,
    judges={},
    n=2,
    start=fresh(),
    max_tokens=SORTING.max_tokens,
    optimizer=exact_study.optimizer(1e-3, sizes.policy_steps),
)
experiment = dataclasses.replace(exact_study.online(sizes, algorithm), mesh=MESH, log_every=5, sample=None)
state = train(experiment, Workspace("runs/mesh"))

# %% [markdown]
# ## Where the weights lie
#
# A layer's matrix is split over `fsdp` and `tensor`; what is small is whole on every device.

# %%
for path, leaf in jax.tree.leaves_with_path(state.roles["policy"])[:6]:
    print(f"{jax.tree_util.keystr(path):40} {leaf.shape!s:16} {leaf.sharding.spec}")

# %% [markdown]
# ## Will a larger model fit?
#
# A dry run prints what every device holds, without any device: `alignjax train ipo_md --dry-run --topology v5e-8`. `tpu/README.md` goes from
# there to slices of many hosts.

# %%
# !JAX_PLATFORMS=cpu alignjax train ipo_md:tiny --dry-run --topology v5e-8 | tail -25
