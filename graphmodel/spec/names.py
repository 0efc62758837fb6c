"""Which names a spec may use: they become Python arguments and attributes of the emitted module."""

from __future__ import annotations

import keyword
import unicodedata

# Attributes of torch.nn.Module, torch.nn.ModuleDict and torch.fx.GraphModule, written out because nothing here imports
# torch; tests/spec/test_names.py compares the list with the installed torch.
RESERVED = frozenset(
    """
    T_destination add_module apply bfloat16 buffers call_super_init children clear code compile cpu cuda
    delete_all_unused_submodules delete_submodule add_submodule double dump_patches eval extra_repr float
    forward get_buffer get_extra_state
    get_parameter get_submodule graph half ipu items keys load_state_dict meta module modules mtia named_buffers
    named_children named_modules named_parameters parameters pop print_readable recompile register_backward_hook
    register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook
    register_module register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
    set_extra_state set_submodule share_memory slice state_dict to to_empty to_folder train training type update values
    xpu zero_grad self torch inf nan NoneType device fx_pytree pytree wrap trunk trunks heads name_scope
    """.split()
)


def name_problem(name: str, what: str) -> tuple[str, str] | None:
    """Why `name` cannot name an input, a head, a trunk or an output, and how to fix it; None if it is valid.

    Python normalises identifiers (NFKC) when it compiles code: `ﬁ` and `fi` would be one argument, `ſelf` would be
    `self`. Names are compared in that form, and must be written in it.
    """
    normal = unicodedata.normalize("NFKC", name)
    fixed = "".join(c if c.isalnum() or c == "_" else "_" for c in normal) or "x"
    fixed = fixed.strip("_") if fixed.strip("_").isidentifier() else f"x{fixed.rstrip('_')}"
    reason, use = "", ""
    if not normal.isidentifier():
        reason, use = "it is not a Python identifier", fixed
    elif keyword.iskeyword(normal):
        reason, use = f"`{normal}` is a Python keyword", f"{normal}_"
    elif normal in RESERVED or normal.startswith("_"):
        reason, use = f"`{normal}` is reserved", f"{normal.strip('_')}_{what.split()[-1]}"
    elif normal != name:
        reason, use = f"Python reads it as `{normal}`", normal
    return (f"`{name}` cannot name {what}: {reason}", f"use for example `{use}`") if reason else None


LOCKED_SPEC = "spec.lock.yaml"
"""The file name of the resolved spec in the directory of a compiled model."""
