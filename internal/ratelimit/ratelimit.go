// Package ratelimit bounds how often something may happen. An event never waits: it passes or it
// does not.
package ratelimit

import (
	"sync"
	"time"
)

// Rate is a limit of one event per Every, in which the events of Burst may come at once. The zero
// Rate has no limit.
type Rate struct{ Every, Burst time.Duration }

// BurstSeconds is the burst of a Rate from PerSecond: the events of this many seconds may come at
// once.
const BurstSeconds = 2

// PerSecond returns a rate of n events per second. It has no limit if n is not positive.
func PerSecond(n int) Rate {
	if n <= 0 {
		return Rate{}
	}
	return Rate{time.Second / time.Duration(n), BurstSeconds * time.Second}
}

// Bucket is a token bucket. It is for one goroutine at a time, and its rate must not change. The
// zero Bucket is full.
type Bucket struct {
	full time.Time // when it will be full again
}

// Take takes a token. It returns false if there is none.
func (b *Bucket) Take(r Rate) bool {
	if r.Every == 0 {
		return true
	}
	now := time.Now()
	if b.full.Before(now) {
		b.full = now
	}
	if b.full.Sub(now)+r.Every > r.Burst {
		return false
	}
	b.full = b.full.Add(r.Every)
	return true
}

// TakeCost takes what an event of a cost takes, if cost 1 may come perSecond times in a second, and
// BurstSeconds of them at once. It returns zero, or how long the event would have to wait. A full
// bucket lets any cost pass. There is no limit if perSecond is not positive.
func (b *Bucket) TakeCost(perSecond, cost float64) time.Duration {
	if perSecond <= 0 {
		return 0
	}
	now := time.Now()
	if b.full.Before(now) {
		b.full = now
	}
	// An hour bounds the product, which could not be represented for a tiny rate.
	takes := time.Duration(min(cost/perSecond, 3600) * float64(time.Second))
	missing := b.full.Sub(now)
	if over := missing + takes - BurstSeconds*time.Second; over > 0 && missing > 0 {
		return min(over, missing)
	}
	b.full = b.full.Add(takes)
	return 0
}

// IsFull reports whether no token is missing at the time now.
func (b *Bucket) IsFull(now time.Time) bool { return !b.full.After(now) }

// Shared is a Bucket with its Rate, for any number of goroutines. The zero Shared has no limit.
type Shared struct {
	Rate Rate // set before the first use

	mu     sync.Mutex
	bucket Bucket
}

// Take takes a token. It returns false if there is none.
func (l *Shared) Take() bool {
	if l.Rate.Every == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bucket.Take(l.Rate)
}
