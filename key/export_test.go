package key

import "math"

// SetLast sets the last key of a generator to the last one of a millisecond, less a number.
func SetLast(g *Generator, milli, less uint64) {
	g.milli, g.random = milli, uint80{math.MaxUint16, math.MaxUint64 - less}
}
