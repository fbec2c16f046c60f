"""Steering: directions from contrast sets, added to the states of a network at named sites (docs/steering.md).

What is added is data: {site: vector of each layer}, in params["edits"], which scoring, samplers and behaviors take.
"""

from alignjax.steering.contrast_directions import (
    Probe as Probe,
    difference_of_means as difference_of_means,
    head_shifts as head_shifts,
    linear_probe as linear_probe,
    principal_direction as principal_direction,
    probe_accuracy as probe_accuracy,
)
from alignjax.steering.control_vectors import (
    read_control_vector as read_control_vector,
    write_control_vector as write_control_vector,
)
from alignjax.steering.states import completion_states as completion_states, prompt_states as prompt_states
from alignjax.steering.steered_params import (
    gated as gated,
    layers_only as layers_only,
    prompt_gate as prompt_gate,
    steered as steered,
    steered_role as steered_role,
)
