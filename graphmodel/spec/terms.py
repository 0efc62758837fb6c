"""The words that a spec may choose from. No Pydantic here: the formats and the resolved spec share them."""

from __future__ import annotations

from typing import Literal

Returns = Literal["dict", "tuple", "list", "tensor"]
Passes = Literal["resolution", "consecutive", "crop"]
Dtype = Literal["float32", "float16", "bfloat16", "uint8", "int64", "bool"]
InputType = Literal["rgb", "bgr", "lab"]
Combine = Literal["concat", "sum", "stack", "list"]
Layout = Literal["nchw", "nhwc", "nlc"]
Tokens = Literal["class", "patch", "mean", "all"]
