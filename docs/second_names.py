"""Extension of griffe for the API page: `open = open_dataset` in the package is documented as the function that it names."""

from __future__ import annotations

from typing import Any

import griffe


class SecondNames(griffe.Extension):
    """Replaces attributes whose value is the name of another object by aliases of that object."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for name, member in list(pkg.attributes.items()):
            if not member.is_alias and isinstance(member.value, griffe.ExprName):
                pkg.set_member(name, griffe.Alias(name, member.value.canonical_path, parent=pkg))
