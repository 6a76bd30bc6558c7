"""At home in other libraries: one thin module for each, with the extra of the same name.

Each uses the public names of this package and its one library. None is imported by the package
itself; one whose library is missing raises an ImportError that names the extra.
"""

from __future__ import annotations
