"""Costs of compiled programs: against products counted by hand, and against the compiler where it counts the same."""

import jax
import jax.numpy as jnp
import pytest

from alignjax.cli.compiled_costs import Costs, costs_of
from alignjax.cli.roofline import bounds
from alignjax.parallel.tpu_topologies import topology

LAYERS, ROWS, WIDTH = 5, 24, 32

# A program as libtpu writes them: a loop of three turns whose condition holds its bound, weights gathered from four
# devices in two fusions of one channel, a batch of products as a dilated convolution, arrays kept on the chip (`S(1)`).
TPU_PROGRAM = """HloModule jit_f, is_scheduled=true, num_partitions=8

%fused.1 (p0: bf16[1,8,16]) -> bf16[1,32,16] {
  %p0 = bf16[1,8,16]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.1 = bf16[1,32,16]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%p0), channel_id=7, replica_groups=[2,4]<=[8], dimensions={1}, use_global_device_ids=true
}

%fused.2 (p0: bf16[1,8,16]) -> bf16[1,32,16] {
  %p0 = bf16[1,8,16]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[1,32,16]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%p0), channel_id=7, replica_groups=[2,4]<=[8], dimensions={1}, use_global_device_ids=true
}

%fused.3 (p0: bf16[3,16,64,32], p1: s32[]) -> bf16[16,64,32] {
  %p0 = bf16[3,16,64,32]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)S(6)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice = bf16[1,16,64,32]{3,2,1,0:T(8,128)(2,1)} dynamic-slice(%p0, %p1, %zero, %zero, %zero), dynamic_slice_sizes={1,16,64,32}
  ROOT %view = bf16[16,64,32]{2,1,0:T(8,128)(2,1)S(1)} bitcast(%slice)
}

%body (state: (s32[], bf16[3,16,64,32], bf16[16,256,32], bf16[1,8,16])) -> (s32[], bf16[3,16,64,32], bf16[16,256,32], bf16[1,8,16]) {
  %state = (s32[]{:T(128)}, bf16[3,16,64,32]{3,2,1,0}, /*index=2*/bf16[16,256,32]{2,1,0}, bf16[1,8,16]{2,1,0}) parameter(0)
  %turn = s32[]{:T(128)S(6)} get-tuple-element(%state), index=0
  %stack = bf16[3,16,64,32]{3,2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %keys = bf16[16,256,32]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state), index=2
  %shard = bf16[1,8,16]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=3
  %begin = bf16[1,32,16]{2,1,0:T(8,128)(2,1)S(1)} fusion(%shard), kind=kCustom, calls=%fused.1
  %again = bf16[1,32,16]{2,1,0:T(8,128)(2,1)S(1)} fusion(%shard), kind=kCustom, calls=%fused.2
  %queries = bf16[16,64,32]{2,1,0:T(8,128)(2,1)S(1)} fusion(%stack, %turn), kind=kLoop, calls=%fused.3
  %scores = bf16[16,64,256]{2,1,0:T(8,128)(2,1)S(1)} convolution(%queries, %keys), window={size=16 stride=15 lhs_dilate=16}, dim_labels=0bf_0oi->0bf
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%turn, %one)
  ROOT %out = (s32[]{:T(128)}, bf16[3,16,64,32]{3,2,1,0}, bf16[16,256,32]{2,1,0}, bf16[1,8,16]{2,1,0}) tuple(%next, %stack, %keys, %shard)
}

%condition (state.1: (s32[], bf16[3,16,64,32], bf16[16,256,32], bf16[1,8,16])) -> pred[] {
  %bound = s32[]{:T(128)} constant(3)
  %state.1 = (s32[]{:T(128)}, bf16[3,16,64,32]{3,2,1,0}, bf16[16,256,32]{2,1,0}, bf16[1,8,16]{2,1,0}) parameter(0)
  %turn.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%turn.1, %bound), direction=LT
}

ENTRY %main (a: (s32[], bf16[3,16,64,32], bf16[16,256,32], bf16[1,8,16])) -> (s32[], bf16[3,16,64,32], bf16[16,256,32], bf16[1,8,16]) {
  %a = (s32[]{:T(128)}, bf16[3,16,64,32]{3,2,1,0}, bf16[16,256,32]{2,1,0}, bf16[1,8,16]{2,1,0}) parameter(0)
  ROOT %loop = (s32[]{:T(128)}, bf16[3,16,64,32]{3,2,1,0}, bf16[16,256,32]{2,1,0}, bf16[1,8,16]{2,1,0}) while(%a), condition=%condition, body=%body
}
"""  # noqa: E501


def compiled(function, *arguments):
    return jax.jit(function).lower(*(jax.ShapeDtypeStruct(each, jnp.float32) for each in arguments)).compile()


def layers(weights, rows):
    return jax.lax.scan(lambda rows, weight: (jnp.tanh(rows @ weight), None), rows, weights)[0].sum()


def test_a_loop_counts_as_often_as_it_runs():
    products = 2 * LAYERS * ROWS * WIDTH * WIDTH
    weights, rows = (LAYERS, WIDTH, WIDTH), (ROWS, WIDTH)
    forwards = costs_of(compiled(layers, weights, rows).as_text())
    both = costs_of(compiled(jax.grad(layers, argnums=(0, 1)), weights, rows).as_text())
    assert (forwards.flops, both.flops) == (products, 3 * products)
    # Were the whole stack read at every turn, twice the layers would be four times the bytes.
    twice = costs_of(compiled(layers, (2 * LAYERS, WIDTH, WIDTH), rows).as_text())
    assert twice.bytes_moved / forwards.bytes_moved == pytest.approx(2, rel=0.1)


def test_one_product_costs_what_the_compiler_says():
    program = compiled(lambda a, b: jnp.einsum("hik,hkj->hij", a, b), (3, 40, 24), (3, 24, 56))
    costs, said = costs_of(program.as_text()), program.cost_analysis()
    assert costs == Costs(said["flops"], said["bytes accessed"], 0.0)


def test_a_tpu_program_is_counted_by_turns_slices_and_channels():
    costs = costs_of(TPU_PROGRAM)
    assert costs.flops == 3 * 2 * 16 * 64 * 256 * 32
    assert costs.bytes_sent == 3 * (8 * 16 * 2) * 3  # to the three others, once a turn though two fusions hold it
    shard, a_slice, counter = 2 * 8 * 16, 2 * 16 * 64 * 32, 2 * 4
    assert costs.bytes_moved == 3 * (shard + a_slice + counter)


@pytest.mark.parametrize(
    ("left", "right", "out", "rest"),
    [
        (
            (16, 32, 64),
            (256, 16, 32),
            (16, 64, 256),
            "window={size=16 stride=15 lhs_dilate=16}, dim_labels=0fb_o0i->0bf",
        ),
        (
            (64, 16, 256),
            (16, 256, 32),
            (16, 32, 64),
            "window={size=16 stride=16 pad=15_15 lhs_dilate=15 rhs_reversal=1}, dim_labels=f0b_0io->0fb",
        ),
        ((64, 512), (512, 128), (64, 128), "dim_labels=bf_io->bf"),
    ],
)
def test_a_product_of_matrices_is_counted_in_every_guise(left, right, out, rest):
    """Batches (16, or none), rows, columns and what is summed over stand in any order."""
    shapes = ["f32" + str(list(shape)).replace(" ", "") for shape in (left, right, out)]
    lines = [f"  %a = {shapes[0]} parameter(0)", f"  %b = {shapes[1]} parameter(1)"]
    lines.append(f"  ROOT %c = {shapes[2]} convolution(%a, %b), {rest}")
    program = "\n".join(["ENTRY %main (a: f32[]) -> f32[] {", *lines, "}"])
    elements = [jnp.prod(jnp.array(shape)).item() for shape in (left, right, out)]
    batch = 16 if len(left) == 3 else 1
    assert costs_of(program).flops == pytest.approx(2 * (elements[0] * elements[1] * elements[2] / batch) ** 0.5)


@pytest.mark.parametrize(
    ("groups", "ways"),
    [("{{0,1},{2,3},{4,5}}", 2), ("[2,4]<=[8]", 4), ("[4,2]<=[2,4]T(1,0)", 2), ("mesh['a'=4,'b'=2] {'a','b'}", 8)],
)
@pytest.mark.parametrize(
    ("kind", "share"), [("all-reduce", lambda n: 2 * (n - 1) / n), ("reduce-scatter", lambda n: (n - 1) / n)]
)
def test_what_a_ring_sends(groups, ways, kind, share):
    program = f"""ENTRY %main (a: f32[96]) -> f32[96] {{
  %a = f32[96]{{0}} parameter(0)
  ROOT %b = f32[96]{{0}} {kind}-start(%a), channel_id=1, replica_groups={groups}, to_apply=%add
}}"""
    assert costs_of(program).bytes_sent == pytest.approx(4 * 96 * share(ways))


def test_the_bound_is_of_the_part_that_is_busy_longest():
    slices = topology("v5e-16")
    assert bounds(Costs(197e12, 0, 0), slices)["products"] == pytest.approx(1)
    assert bounds(Costs(0, 819e9, 0), slices)["memory"] == pytest.approx(1)
    assert bounds(Costs(0, 0, 200e9), slices)["interconnect"] == pytest.approx(1)
    assert bounds(Costs(2307e12, 0, 0), topology("v7x-16"))["products"] == pytest.approx(2)  # a chip is two devices
