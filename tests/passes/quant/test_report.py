"""The quantization error report."""

from compiler.passes.quant.report import ErrorSample, OpError, QuantizationErrorReport


def test_worst_are_named_first():
    report = QuantizationErrorReport([OpError(f"op{i}", f"model.m{i}", "awq", i / 100) for i in range(8)])
    assert [entry.op for entry in report.worst()] == ["op7", "op6", "op5", "op4", "op3"]
    lines = report.text(2).splitlines()
    assert lines[0].startswith("8 quantized ops, relative error of outputs 3.50%")
    assert lines[1:] == ["    7.00%  op7 from model.m7 (awq)", "    6.00%  op6 from model.m6 (awq)"]


def test_json_has_every_op_in_order():
    report = QuantizationErrorReport([OpError("a", "m", "gptq", 0.5), OpError("b", "n", "gptq", 0.25)])
    assert report.to_json() == {
        "report": "quick",
        "mean": 0.375,
        "ops": [
            {"op": "a", "module": "m", "recipe": "gptq", "error": 0.5},
            {"op": "b", "module": "n", "recipe": "gptq", "error": 0.25},
        ],
        "samples": [],
    }
    assert QuantizationErrorReport().text() == ""
    assert QuantizationErrorReport().to_json()["mean"] is None


def test_what_a_quick_report_leaves_out_is_said():
    sample = ErrorSample("int8, 8 bits", measured=1, quantized=96, windows=4, tokens=16)
    report = QuantizationErrorReport([OpError("a", "m", "int8, 8 bits", 0.5)], samples=[sample])
    said = "quick report: 1 of 96 ops (int8, 8 bits), on 4 windows of 16 tokens; all with --report full"
    assert report.text().splitlines()[-1] == said
    assert report.to_json()["samples"] == [
        {"recipe": "int8, 8 bits", "measured": 1, "quantized": 96, "windows": 4, "tokens": 16}
    ]
    nothing = QuantizationErrorReport(samples=[ErrorSample("int8, 8 bits", 0, 2, 0, 0)])
    assert nothing.text() == "quick report: 0 of 2 ops (int8, 8 bits); all with --report full"


def test_what_is_left_is_said():
    report = QuantizationErrorReport([OpError("a", "m", "fp8", 0.5), OpError("b", "n", "fp8", 0.25)])
    report.leave({"b"})
    assert report.entries == [OpError("a", "m", "fp8", 0.5), OpError("b", "n", "left as it is", 0.25)]


def test_narrow_lines_break_between_columns():
    report = QuantizationErrorReport(
        [OpError("layers.0.attn.v", "model.layers.0.self_attn.v_proj", "awq, 4 bits", 0.0937)]
    )
    assert report.text(width=50).splitlines() == [
        "1 quantized ops, relative error of outputs 9.37%",
        "  on average; the worst:",
        "    9.37%  layers.0.attn.v",
        "           from model.layers.0.self_attn.v_proj",
        "           (awq, 4 bits)",
    ]
    assert len(report.text(width=200).splitlines()) == 2
    assert report.text(width=200) == report.text()
