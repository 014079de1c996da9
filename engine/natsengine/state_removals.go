package natsengine

import (
	"crypto/sha256"
	"slices"
	"time"

	"bennu.example/engine/internal/fields"
)

// removals are the IDs with which objects of a name were removed, oldest first. They are never
// changed: copies of an object share them.
type removals []removal

type removal struct {
	id string // as hashed by hashOf, so that all of them fit into a message
	at time.Time
}

// removalSize is the estimated memory of a removal.
const removalSize = 80

func hashOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return string(sum[:16])
}

// size returns the estimated memory.
func (x removals) size() int { return len(x) * removalSize }

// has reports whether an ID is remembered.
func (x removals) has(id string, now time.Time) bool {
	hash := hashOf(id)
	return slices.ContainsFunc(x.recent(now), func(r removal) bool { return r.id == hash })
}

// recent returns those that must be remembered.
func (x removals) recent(now time.Time) removals {
	for len(x) > 0 && now.Sub(x[0].at) >= writeIDAge {
		x = x[1:]
	}
	return x
}

// with returns the removals with another one, and without the oldest if there are too many.
func (x removals) with(id string, now time.Time) removals {
	x = x[max(0, len(x)+1-maxWriteIDs):]
	return append(slices.Clone(x), removal{hashOf(id), now})
}

func (x removals) encode(w *fields.Writer) {
	w.Number(uint64(len(x)))
	for _, r := range x {
		w.Text(r.id)
		w.Number(milliseconds(r.at))
	}
}

// readRemovals reads what encode has appended to the end of a value. Values of earlier versions end
// before it.
func readRemovals(r *fields.Reader) removals {
	if r.Len() == 0 {
		return nil
	}
	n := r.Count()
	if n == 0 {
		return nil // as of an earlier version
	}
	x := make(removals, n)
	for i := range x {
		x[i] = removal{r.Text(), timeOf(r.Number())}
	}
	return x
}
