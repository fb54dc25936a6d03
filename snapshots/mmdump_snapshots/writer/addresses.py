"""Where a kernel maps what: the regions of its virtual address space, with KASLR or without."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["AddressSpace"]

MASK = (1 << 64) - 1
TB = 1 << 40
GB = 1 << 30
MB2 = 2 << 20

#: x86-64: __START_KERNEL_map, the link address of _text, and how much is mapped from there on.
START_KERNEL_MAP = 0xFFFFFFFF80000000
X86_TEXT = 0xFFFFFFFF81000000
KERNEL_IMAGE_SIZE = 1 << 30
#: arm64 with VA_BITS of 48: KIMAGE_VADDR, after 2 GiB for modules, is the link address of _text.
ARM64_PAGE_OFFSET = 0xFFFF000000000000
ARM64_MODULES = 0xFFFF800000000000
ARM64_TEXT = 0xFFFF800080000000
ARM64_VMEMMAP_END = 0xFFFFFFFFC0000000
ARM64_VA_BITS = 48


@dataclass(frozen=True)
class AddressSpace:
    """A kernel's virtual addresses. All fields may be given, to be like the kernel of a real dump.

    :param arch: ``"x86_64"`` or ``"aarch64"``.
    :param page_shift: log2 of the page size.
    :param page_offset: Where the direct map begins: ``page_offset_base``, or PAGE_OFFSET.
    :param memstart: The physical address that is mapped there: 0, or arm64's ``memstart_addr``.
    :param vmemmap: Where the struct page of PFN 0 would be.
    :param vmalloc: The start of the vmalloc area.
    :param text: The link address of ``_text``.
    :param text_phys: Its physical address.
    :param kernel_offset: By how much it was moved from its link address: KERNELOFFSET.
    :param levels: Levels of page tables.
    """

    arch: str
    page_shift: int
    page_offset: int
    memstart: int
    vmemmap: int
    vmalloc: int
    text: int
    text_phys: int
    kernel_offset: int = 0
    levels: int = 4

    @classmethod
    def x86_64(
        cls,
        *,
        text_phys: int = 16 << 20,
        ram_end: int = 0,
        seed: int | None = None,
        page_offset: int | None = None,
        vmalloc: int | None = None,
        vmemmap: int | None = None,
        kernel_offset: int | None = None,
        levels: int = 4,
    ) -> AddressSpace:
        """An x86-64 kernel: at its documented places, or where ``kernel_randomize_memory()`` might put it.

        :param text_phys: Physical address of ``_text``, a multiple of 2 MiB.
        :param ram_end: The highest physical address, which the direct map must reach.
        :param seed: For KASLR; ``None`` is nokaslr. Bases that are given are kept in any case.
        """
        bases = [0xFFFF888000000000, 0xFFFFC90000000000, 0xFFFFEA0000000000]
        limit = 0xFFFFFE0000000000  # CPU_ENTRY_AREA_BASE
        vmalloc_tb = 32
        if levels == 5:
            bases = [0xFF11000000000000, 0xFFA0000000000000, 0xFFD4000000000000]
            vmalloc_tb = 12800
        offset = 0
        if seed is not None:
            rng = random.Random(seed)  # noqa: S311 - a layout to be repeated, not a secret
            # In order, each as large as it must be; what is left over is shared out at random between them.
            direct_tb = min(-(-ram_end // TB) + 10, 64)
            sizes = [direct_tb * TB, vmalloc_tb * TB, max(direct_tb * TB // 64, TB)]
            position = bases[0]
            left = limit - position - sum(sizes)
            step = GB if levels == 4 else 512 * GB
            for number, size in enumerate(sizes):
                gap = rng.randrange(left // (3 - number) + 1) // step * step
                position += gap
                left -= gap
                bases[number] = position
                position = -(-(position + size) // step) * step
            # The image, some 32 MiB, stays within KERNEL_IMAGE_SIZE.
            offset = (
                rng.randrange((KERNEL_IMAGE_SIZE - (X86_TEXT - START_KERNEL_MAP) - (64 << 20)) // MB2) * MB2
            )
        return cls(
            "x86_64",
            12,
            bases[0] if page_offset is None else page_offset,
            0,
            bases[2] if vmemmap is None else vmemmap,
            bases[1] if vmalloc is None else vmalloc,
            X86_TEXT,
            text_phys,
            offset if kernel_offset is None else kernel_offset,
            levels,
        )

    @classmethod
    def aarch64(
        cls,
        *,
        page_shift: int = 12,
        ram_start: int = 0x40000000,
        text_phys: int = 0x40200000,
        seed: int | None = None,
        memstart: int | None = None,
        kernel_offset: int | None = None,
        page_size_of_struct: int = 64,
    ) -> AddressSpace:
        """An arm64 kernel with 48 bits of addresses, as ``asm/memory.h`` and ``kaslr_early_init()`` have it.

        :param ram_start: The lowest RAM; the direct map begins there, rounded down to 1 GiB (4K) or 32 MiB
            (16K).
        :param seed: For KASLR of the image; ``None`` is nokaslr.
        :param page_size_of_struct: sizeof(struct page), which vmemmap's size depends on (6.9 and newer).
        """
        offset = 0
        if seed is not None:
            # The middle half of the vmalloc area.
            spread = random.Random(seed).randrange(1 << (ARM64_VA_BITS - 2))  # noqa: S311
            offset = ((1 << (ARM64_VA_BITS - 3)) + spread) // MB2 * MB2
        if memstart is None:
            align = 1 << 30 if page_shift == 12 else 32 << 20
            memstart = ram_start // align * align
        start = ARM64_VMEMMAP_END - ((1 << (ARM64_VA_BITS - 1)) >> page_shift) * page_size_of_struct
        return cls(
            "aarch64",
            page_shift,
            ARM64_PAGE_OFFSET,
            memstart,
            start - (memstart >> page_shift) * page_size_of_struct,
            ARM64_TEXT,
            ARM64_TEXT,
            text_phys,
            offset if kernel_offset is None else kernel_offset,
        )

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return 1 << self.page_shift

    @property
    def phys_base(self) -> int:
        """x86-64's ``phys_base``: what to add to (address - __START_KERNEL_map); often negative."""
        return self.text_phys - (self.text + self.kernel_offset - START_KERNEL_MAP)

    @property
    def kimage_voffset(self) -> int:
        """arm64's ``kimage_voffset``: virtual minus physical address of the image."""
        return self.text + self.kernel_offset - self.text_phys

    @property
    def max_physmem_bits(self) -> int:
        """MAX_PHYSMEM_BITS."""
        if self.arch == "x86_64":
            return 52 if self.levels == 5 else 46
        return 48

    @property
    def va_bits(self) -> int:
        """Bits of a virtual address that page tables translate."""
        if self.arch == "x86_64":
            return 57 if self.levels == 5 else 48
        return ARM64_VA_BITS

    @property
    def vmemmap_start(self) -> int:
        """VMEMMAP_START: where the page array may begin; arm64 has the struct page of ``memstart`` there."""
        return self.page(self.memstart >> self.page_shift)

    def direct(self, phys: int) -> int:
        """The address of a physical address in the direct map: ``__va()``."""
        return (phys - self.memstart + self.page_offset) & MASK

    def phys(self, virt: int) -> int:
        """The reverse of :meth:`direct`."""
        return (virt - self.page_offset + self.memstart) & MASK

    def kernel(self, link: int) -> int:
        """The address at run time of something in the kernel image."""
        return (link + self.kernel_offset) & MASK

    def kernel_phys(self, link: int) -> int:
        """The physical address of something in the kernel image, by its link address."""
        return link - self.text + self.text_phys

    def page(self, pfn: int, size: int = 64) -> int:
        """``pfn_to_page()``: the address of a struct page of ``size`` bytes."""
        return (self.vmemmap + pfn * size) & MASK

    def per_cpu_offset(self, phys: int, start: int) -> int:
        """``__per_cpu_offset[]`` of a CPU whose area is at a physical address, in the direct map.

        :param start: ``__per_cpu_start`` as the kernel sees it: 0 on x86-64 before 6.15, else its address at
            run time.
        """
        return (self.direct(phys) - start) & MASK
