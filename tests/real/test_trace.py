"""The trace of the real vmcore, against what the kernel printed of it at that moment."""

from __future__ import annotations

from mmdump.kernel import Kernel
from mmdump.kernelfile import find_kernel_file
from mmdump.plugins import Plugins
from mmdump.scan import Ranges
from tests.conftest import Sample


def _cat(kernel: Kernel, plugins: Plugins, name: str) -> bytes:
    file = find_kernel_file(plugins.kernel_files(), name)
    return b"".join(file.read(kernel, Ranges(kernel)))


def test_the_trace_is_byte_for_byte_what_the_kernel_printed(
    kernel: Kernel, plugins: Plugins, sample: Sample
) -> None:
    found, truth = _cat(kernel, plugins, "/sys/kernel/tracing/trace"), sample.truth("trace.txt")
    assert truth.count(b"page_pinner_put") > 900
    assert found == truth


def test_tracefs_is_mounted_in_two_places(kernel: Kernel, plugins: Plugins) -> None:
    files = plugins.kernel_files()
    assert find_kernel_file(files, "tracing/trace").path.endswith("/tracing/trace")
    assert find_kernel_file(files, "instances/other/trace").path.endswith("/instances/other/trace")
