package socket

import (
	"sync"
	"time"
)

// limiter is a token bucket: so many events a second, and a burst of two seconds' worth. Nobody waits in it: an event passes or does not. It
// is for one goroutine at a time.
type limiter struct {
	every time.Duration // per event; 0: everything passes
	burst time.Duration
	full  time.Time // when the bucket will be full again
}

// burstSeconds is how many seconds' worth of events may come at once.
const burstSeconds = 2

func newLimiter(perSecond int) limiter {
	if perSecond <= 0 {
		return limiter{}
	}
	return limiter{every: time.Second / time.Duration(perSecond), burst: burstSeconds * time.Second}
}

// allow takes a token, if there is one.
func (l *limiter) allow() bool {
	if l.every == 0 {
		return true
	}
	now := time.Now()
	if l.full.Before(now) {
		l.full = now
	}
	if l.full.Sub(now)+l.every > l.burst {
		return false
	}
	l.full = l.full.Add(l.every)
	return true
}

// sharedLimiter is a limiter for any number of goroutines.
type sharedLimiter struct {
	mu sync.Mutex
	limiter
}

func (l *sharedLimiter) allow() bool {
	if l.every == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.limiter.allow()
}
