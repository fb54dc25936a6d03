"""Kernels as profiles: what their structures look like, declared in C for all releases at once."""

from mmdump_snapshots.kernels.cdecl import Declarations, Prototype, Variable
from mmdump_snapshots.kernels.preprocess import DeclarationError
from mmdump_snapshots.kernels.profiles import Profile, profile, profiles
from mmdump_snapshots.kernels.types import Content, CType, Member, Types

__all__ = [
    "CType",
    "Content",
    "DeclarationError",
    "Declarations",
    "Member",
    "Profile",
    "Prototype",
    "Types",
    "Variable",
    "profile",
    "profiles",
]
