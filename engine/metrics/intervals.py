"""How far a figure that was measured on a sample carries."""

import math


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a share measured on `count` examples; 95 % by default (Wilson, 1927)."""
    if count <= 0:
        return 0.0, 1.0
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
