"""Compiled kernels are kept from run to run, and nothing depends on the file."""

from types import SimpleNamespace

import pytest

from runtime.executors.tensorrt.kernel_cache import KernelCache


class FakeCache:
    """`IRuntimeCache`: it takes what begins as it should."""

    content = b"kernels: "

    def deserialize(self, content):
        if content.startswith(b"kernels: "):
            self.content = content
        return content.startswith(b"kernels: ")

    def serialize(self):
        return memoryview(self.content)


class FakeConfig:
    """`IRuntimeConfig`."""

    def create_runtime_cache(self):
        return FakeCache()

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "llmc"


def attached(digest="ab", gpu="L4", package="tensorrt_rtx 1.6"):
    kernels, config = KernelCache(digest, gpu, package), FakeConfig()
    kernels.attach(config)
    return kernels, config.cache


def test_kernels_are_written_when_the_engine_goes_and_read_the_next_time(folder) -> None:
    kernels, cache = attached()
    path = kernels.path
    cache.content += b"gemm"
    assert not path.exists()
    del kernels
    assert path.read_bytes() == b"kernels: gemm"
    assert attached()[1].content == b"kernels: gemm"
    assert [p.name for p in folder.iterdir()] == [path.name]


def test_a_cache_that_did_not_grow_is_not_written_again() -> None:
    path = attached()[0].path
    before = path.stat().st_mtime_ns, path.stat().st_ino
    attached()
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_a_damaged_file_is_ignored_and_written_anew() -> None:
    path = attached()[0].path
    path.write_bytes(b"garbage")
    assert attached()[1].content == FakeCache.content
    assert path.read_bytes() == FakeCache.content


def test_a_folder_that_cannot_be_made_is_no_error(folder) -> None:
    folder.write_text("in the way")
    attached()
    assert folder.read_text() == "in the way"


def test_engines_gpus_and_versions_have_files_of_their_own() -> None:
    paths = {attached(*key)[0].path for key in (("ab",), ("cd",), ("ab", "A10"), ("ab", "L4", "tensorrt_rtx 1.7"))}
    assert len(paths) == 4


def test_contexts_share_a_cache() -> None:
    kernels, cache = attached()
    second = FakeConfig()
    kernels.attach(second)
    assert second.cache is cache


def test_nothing_is_kept_without_a_digest_or_where_tensorrt_has_no_caches(folder) -> None:
    KernelCache(None, "L4", "tensorrt 10.15").attach(FakeConfig())
    KernelCache("ab", "L4", "tensorrt 10.15").attach(SimpleNamespace())
    assert not folder.exists()
