"""The kernels' instructions for GPUs, compiled without one."""

import pytest
import torch

from runtime.executors.cuda.kernels.precompile import Job, precompile
from runtime.executors.cuda.kernels.rounding import Rounded
from tests.runtime.executors.cuda.instructions import overwritten
from tests.runtime.executors.cuda.products import LAUNCHES, SLICED, WIDE, Case, build


def jobs(case: Case, device: torch.device, *, hopper: bool = False) -> list[Job]:
    """The kernels of a product, as a GPU runs them, which may have what came with compute capability 9.0."""
    built = build(case, device)
    launch = built.product.launch(case.rows, rounded=case.rounded)
    xs = [Rounded(x.q.to("meta"), x.scale) if isinstance(x, Rounded) and hopper else x for x in built.xs]
    compiled = built.product.jobs(launch, xs)
    native = {"NATIVE": True, "PART": 0}
    return [job._replace(constants={k: native.get(k, v) for k, v in job.constants.items()}) for job in compiled]


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=str)
def test_kernels_compile(capability, device):
    cases = [
        Case(form, group, zero, dtype, columns=columns, config=LAUNCHES["dot"]._replace(split=3))
        for form, group, zero, columns in (
            ("dense", 0, False, (128, 256)),
            ("int8", 64, True, (384,)),
            ("int4", 64, True, (384,)),
            ("float8", 0, False, (384,)),
        )
        for dtype in (torch.float16, torch.bfloat16)
    ]
    cases.append(Case("int4", 128, rows=1, config=LAUNCHES["gemv"]))
    cases += [Case(form, group, rows=1, config=SLICED) for form, group in (("int4", 128), ("int8", 0), ("dense", 0))]
    cases += [Case(form, group, zero, dtype, rows=70, columns=(256, 128), config=WIDE._replace(bn=64, bm=64))
              for form, group, zero, dtype in (("int8", 0, False, torch.float16), ("int8", 64, True, torch.bfloat16),
                                               ("int4", 64, True, torch.float16), ("int4", 128, False, torch.bfloat16),
                                               ("float8", 0, False, torch.bfloat16))]  # fmt: skip
    cases.append(Case("int8", rows=70, columns=(512, 1024), config=WIDE._replace(bn=64, bm=64)))
    for form in ("int8", "float8"):
        cases += [Case(form, columns=columns, rounded=True) for columns in ((256,), (128, 256))]
    cases += [
        Case("int8", rows=70, columns=columns, config=WIDE._replace(bn=64, bm=64), rounded=True)
        for columns in ((256,), (128, 256))
    ]
    compiled = [job for case in cases for job in jobs(case, device, hopper=capability >= (9, 0))]
    note = precompile(compiled, capability, 120, workers=1)
    assert "compiled by 1 processes" in note
    assert "failed" not in note
    assert "not done" not in note


@pytest.mark.parametrize(
    "case",
    [
        Case("int8", rows=256, columns=(256,), config=WIDE._replace(bn=128, bk=64, warps=8, bm=128)),
        Case("int8", rows=256, columns=(512, 1024), config=WIDE._replace(bn=64, bk=64, bm=64)),
        Case("int8", rows=64, columns=(512,), config=LAUNCHES["dot"]._replace(bn=64, bk=128, stages=5)),
        Case("float8", rows=64, columns=(512,), config=LAUNCHES["dot"]._replace(bn=64, bk=64, stages=4)),
    ],
    ids=lambda case: f"{case.form}-{case.config.kind}-{case.config.bn}",
)
def test_no_registers_are_written_that_instructions_still_read(case, device, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled = [job for job in jobs(case, device, hopper=True) if job.kernel in ("wide", "skinny")]
    assert "failed" not in precompile(compiled, (9, 0), 120, workers=1)
    (cubin,) = tmp_path.rglob("*.cubin")
    count, found = overwritten(cubin)
    assert count > 0
    assert not found


def test_what_cannot_be_compiled_is_said(device):
    (job,) = jobs(Case("dense"), device)
    note = precompile([job._replace(constants={**job.constants, "BN": 3})], (9, 0), 120)
    assert "failed: skinny" in note
