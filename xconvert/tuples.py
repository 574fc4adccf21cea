"""Named tuples that take no time to define.

The standard library compiles a function for each class, and one more for each of its annotations: for the 65 classes of a
conversion that is 4 % of its time, for those of ``inspect`` 8 %. Type checkers are shown ``typing.NamedTuple``; what runs is the
same, as far as a tuple with names goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    try:
        from _collections import _tuplegetter as _getter  # as ``collections`` does: it is twice as fast as a property
    except ImportError:
        from operator import itemgetter

        def _getter(place: int, told: str) -> property:
            return property(itemgetter(place), doc=told)

    _NOTHING = object()

    class _Type(type):
        """Makes fields of the annotations, in their order; what is assigned to one is its default."""

        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            fields = tuple(namespace.get("__annotations__", ()))
            if fields:
                namespace["_blank"] = blank = [namespace.get(field, _NOTHING) for field in fields]
                # those without a default, which come first: type checkers see to that
                namespace["_needed"] = tuple(field for field, value in zip(fields, blank, strict=True) if value is _NOTHING)
                namespace |= {field: _getter(place, "") for place, field in enumerate(fields)}
                namespace |= {"_fields": fields, "__match_args__": fields, "_count": len(fields)}
                namespace["_places"] = {field: place for place, field in enumerate(fields)}
            return super().__new__(cls, name, bases, {**namespace, "__slots__": ()})

    class NamedTuple(tuple, metaclass=_Type):
        """Base of a class whose annotations are the fields of its tuples."""

        def __new__(cls, *values: Any, **named: Any) -> NamedTuple:
            """A tuple of all fields: ``values`` in order, what is ``named``, and defaults; raises ``TypeError`` for any other."""
            count = len(values)
            if named or count != cls._count:
                whole = [*values, *cls._blank[count:]]
                for name, value in named.items():
                    if cls._places.get(name, -1) < count:
                        raise _unfit(cls, values, named)
                    whole[cls._places[name]] = value
                if len(whole) != cls._count or any(field not in named for field in cls._needed[count:]):
                    raise _unfit(cls, values, named)
                values = whole
            return tuple.__new__(cls, values)

        def _replace(self, **changed: Any) -> NamedTuple:
            whole = [*self]
            for name, value in changed.items():
                if name not in self._places:
                    raise _unfit(type(self), (), changed)
                whole[self._places[name]] = value
            return tuple.__new__(type(self), whole)

        def _asdict(self) -> dict[str, Any]:
            return dict(zip(self._fields, self, strict=True))

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)

        def __repr__(self) -> str:
            return f"{type(self).__name__}({', '.join(f'{field}={value!r}' for field, value in self._asdict().items())})"

    def _unfit(cls: type[NamedTuple], values: tuple[Any, ...], named: dict[str, Any]) -> TypeError:
        told = f"{len(values)} values, and {', '.join(named) or 'none'} by name"
        return TypeError(f"{cls.__name__}({', '.join(cls._fields)}) cannot be made of {told}")
