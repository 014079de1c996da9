package load

import (
	"math"
	"sync/atomic"
	"time"
)

// The buckets of a histogram begin at a microsecond. Each is 2 % wider than the one before, so that
// a percentile is at most 2 % too high. The last one has everything beyond 20 min.
const (
	growth  = 1.02
	buckets = 1100
)

// Histogram counts durations in constant memory. Its methods may be called from any goroutine.
type Histogram struct {
	counts [buckets]atomic.Uint64
	total  atomic.Uint64
	most   atomic.Int64
}

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) {
	h.counts[bucketOf(d)].Add(1)
	h.total.Add(1)
	for most := h.most.Load(); int64(d) > most && !h.most.CompareAndSwap(most, int64(d)); most = h.most.Load() {
	}
}

func bucketOf(d time.Duration) int {
	if d <= time.Microsecond {
		return 0
	}
	return min(buckets-1, int(math.Ceil(math.Log(float64(d)/float64(time.Microsecond))/math.Log(growth))))
}

// Latency summarizes a histogram.
type Latency struct {
	Count uint64 `json:"count"`
	P50   Millis `json:"p50_ms"`
	P95   Millis `json:"p95_ms"`
	P99   Millis `json:"p99_ms"`
	Max   Millis `json:"max_ms"`
}

// Millis is a duration whose JSON is a number of milliseconds.
type Millis time.Duration

// MarshalJSON returns the milliseconds with three digits after the point.
func (m Millis) MarshalJSON() ([]byte, error) {
	return appendMillis(nil, time.Duration(m)), nil
}

// Latency returns the percentiles so far.
func (h *Histogram) Latency() Latency {
	most := time.Duration(h.most.Load())
	at := func(p float64) Millis { return Millis(min(h.percentile(p), most)) }
	return Latency{Count: h.total.Load(), P50: at(0.50), P95: at(0.95), P99: at(0.99), Max: Millis(most)}
}

// percentile returns the upper bound of the bucket that has the pth part of all durations.
func (h *Histogram) percentile(p float64) time.Duration {
	want := uint64(math.Ceil(p * float64(h.total.Load())))
	var seen uint64
	for i := range h.counts {
		if seen += h.counts[i].Load(); seen >= want {
			return time.Duration(math.Pow(growth, float64(i)) * float64(time.Microsecond))
		}
	}
	return math.MaxInt64
}
