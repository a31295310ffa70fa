"""Money is an integer count of nano-dollars (1 USD = 1,000,000,000) everywhere but at the doors."""

from decimal import ROUND_HALF_UP, Decimal

from django.db import models

NANO = 1_000_000_000


class NanoDollarField(models.BigIntegerField):
    """An exact amount in nano-dollars. Range: about ±9.2 billion USD."""

    description = "Amount in nano-dollars"


def to_nano(usd: Decimal | int | str) -> int:
    """Nano-dollars of an amount in USD. Raises ValueError when it has more than nine decimals."""
    nano = Decimal(usd) * NANO
    if nano != nano.to_integral_value():
        raise ValueError(f"{usd} USD has more than nine decimals")
    return int(nano)


def to_usd(nano: int) -> Decimal:
    """The exact amount in USD, with as many decimals as it needs (at least two)."""
    usd = Decimal(nano).scaleb(-9).normalize()
    exponent = usd.as_tuple().exponent
    return usd if isinstance(exponent, int) and exponent < -2 else usd.quantize(Decimal("0.01"))


def usd_text(nano: int) -> str:
    """The exact amount in plain digits, for the API and exports: "12.50", "0.000000125"."""
    return format(to_usd(nano), "f")


def usd_label(nano: int) -> str:
    """An amount as a person reads it: two decimals from a cent up, four significant decimals below."""
    usd, sign = abs(Decimal(nano).scaleb(-9)), "-" if nano < 0 else ""
    if usd and usd < Decimal("0.01"):
        return f"{sign}${usd:.6f}"
    return f"{sign}${usd.quantize(Decimal('0.01'), ROUND_HALF_UP):,}"
