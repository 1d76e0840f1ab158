"""What TensorRT says, gathered."""

from compiler.trt_network.library import load_library
from compiler.trt_network.messages import NO_GPU, Messages

TRT = load_library("tensorrt-rtx").trt
ERROR, INFO = TRT.ILogger.Severity.ERROR, TRT.ILogger.Severity.INFO


def test_errors_are_kept_until_they_are_taken():
    messages = Messages(TRT)
    for severity, text in ((ERROR, " one\n"), (INFO, "two"), (TRT.ILogger.Severity.INTERNAL_ERROR, "three")):
        messages.logger.log(severity, text)
    assert messages.take() == "one; three"
    assert messages.take() == ""


def test_some_errors_mean_nothing_where_there_is_no_gpu():
    text = "cudaError 35: CUDA driver version is insufficient for CUDA runtime version"
    builds, runs = Messages(TRT, ignored=NO_GPU), Messages(TRT)
    for messages in (builds, runs):
        messages.logger.log(ERROR, text)
    assert builds.errors == [] and runs.errors == [text]


def test_nothing_is_kept_while_it_is_muted():
    messages = Messages(TRT)
    with messages.muted():
        messages.logger.log(ERROR, "one")
    messages.logger.log(ERROR, "two")
    assert messages.errors == ["two"]


def test_the_first_errors_are_shown():
    messages = Messages(TRT)
    assert messages.text() == "TensorRT gave no reason"
    for text in "abcd":
        messages.logger.log(ERROR, text)
    assert messages.text() == "a; b; c"
