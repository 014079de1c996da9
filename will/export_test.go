package will

import "time"

// NewMemoryFor is NewMemory with another Keep.
func NewMemoryFor(keep time.Duration) Store {
	return NewStore(newMemory(time.Now, memoryArrivals), keep)
}

// Table returns a Table in memory that knows a number of arrivals.
func NewTable(arrivals int) *memory { return newMemory(time.Now, arrivals) } //nolint:revive // for tests
