"""Writing pools of blocks by the CPU kernel."""

import pytest
import torch

from compiler.ir.evaluators.core import evaluator
from tests.runtime.executors.cpu.paged_cases import QUANTIZED, Case, appended


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn], ids=str
)
@pytest.mark.parametrize("threads", [1, 3])
def test_new_tokens_are_stored_as_the_interpreter_stores_them(library, dtype, threads):
    case = Case([(33, 1), (0, 30), (14, 3), (16, 1)], heads=3, kv_heads=3, width=21, k_type=dtype)
    wide = torch.randn(case.step.tokens, 3 * 21 + 5) * torch.logspace(-9, 6, case.step.tokens)[:, None]
    wide[0, 2:6] = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0])
    if dtype in QUANTIZED:
        wide = wide.nan_to_num().clamp(-100, 100).to(dtype)
    new = wide[:, 2 : 2 + 3 * 21]
    heads = new.reshape(-1, 3, 21).transpose(0, 1)[None]
    addresses = case.step.token_positions, case.step.token_rows, case.step.block_tables
    expected = evaluator("paged_kv_update").compute({}, {}, case.pools[0], heads.to(dtype), *addresses)
    written = appended(library, case, new, threads)
    torch.testing.assert_close(written.float(), expected.float(), rtol=0, atol=0, equal_nan=True)
