"""One process of a run whose first alone does jobs; `test_multihost.py` starts two.

jobs.py FOLDER .. --place COORDINATOR PROCESSES PROCESS: a job that writes a checkpoint, then one that is stopped.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError
from alignjax.parallel import processes
from alignjax.train import checkpoint
from alignjax.train.stop_signal import Interrupted


def main() -> None:
    folder = Path(sys.argv[1])
    coordinator, count, number = sys.argv[-3:]
    processes.connect(coordinator, int(count), int(number), heartbeat_seconds=30)
    policy = {"matrix": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3, jnp.bfloat16), "none": jnp.zeros((0, 2))}
    with processes.raise_on_all_processes():
        if processes.is_main_process():
            with checkpoint.writing(folder, keep=1, alone=True) as writer:
                checkpoint.save(writer, 3, {"roles": {"policy": policy}}, {"merged": "first"})
    found = checkpoint.restore_role(folder, "policy")
    for name, leaf in policy.items():
        np.testing.assert_array_equal(found[name], leaf)
        assert found[name].dtype == leaf.dtype
    print("read", checkpoint.steps(folder), flush=True)
    try:
        with processes.raise_on_all_processes():
            if processes.is_main_process():
                raise Interrupted(signal.SIGINT, 0)
    except ConfigError as error:
        print(f"error: {error}", flush=True)


if __name__ == "__main__":
    main()
