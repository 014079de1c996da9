package socket

import (
	"sync"
	"time"
)

const (
	// clientTimeOld is the age beyond which a new connection discards the samples of earlier ones.
	clientTimeOld = time.Hour
	// clientTimeSamples is the number of samples that are kept.
	clientTimeSamples = 8
	// clientTimeUnit is the resolution of the server's answers.
	clientTimeUnit = time.Millisecond
)

// serverClock estimates the server's clock. It is based on the monotonic clock, so a step of the
// machine's own clock does not move it.
type serverClock struct {
	base time.Time // when the client was created; does not change

	mu      sync.Mutex
	samples []timeSample // the newest last
	last    time.Time    // the last result of now
}

// timeSample is an answer of the server, compared with the local clock.
type timeSample struct {
	at       time.Time     // when the answer came
	offset   time.Duration // of the server's clock
	maxError time.Duration
}

// local returns the time of the local clock that began with the client and does not follow steps of
// the machine's.
func (s *serverClock) local(t time.Time) time.Time { return s.base.Round(0).Add(t.Sub(s.base)) }

// add adds an answer: the question was sent, the answer was received, and the server's clock showed
// the given milliseconds in between.
func (s *serverClock) add(sent, received time.Time, milli int64) {
	half := received.Sub(sent) / 2
	sample := timeSample{
		at:       received,
		offset:   time.UnixMilli(milli).Add(half).Sub(s.local(received)),
		maxError: half + clientTimeUnit,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if best := s.best(); best != nil && (best.offset-sample.offset).Abs() > best.maxError+sample.maxError {
		s.samples = nil // the machine slept, or a clock was set: the earlier samples are wrong now
	}
	if len(s.samples) == clientTimeSamples {
		s.samples = append(s.samples[:0], s.samples[1:]...)
	}
	s.samples = append(s.samples, sample)
}

// forget discards samples that are older than d.
func (s *serverClock) forget(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.samples) > 0 && time.Since(s.samples[0].at) > d {
		s.samples = s.samples[1:]
	}
}

// best returns the sample with the least error, or nil. The caller holds mu.
func (s *serverClock) best() (best *timeSample) {
	for i := range s.samples {
		if sample := &s.samples[i]; best == nil || sample.maxError <= best.maxError {
			best = sample
		}
	}
	return best
}

// Now returns the time of the server's clock, estimated from its answers on the channel $socket. It
// never goes back, and steps of the machine's clock do not move it. Before the server has answered,
// it is the time of the machine.
func (c *Client) Now() time.Time {
	s := &c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if best := s.best(); best != nil {
		now = s.local(now).Add(best.offset)
	}
	if now = now.Round(0); now.Before(s.last) {
		now = s.last.Add(1)
	}
	s.last = now
	return now
}

// TimeOffset returns by how much the server's clock is ahead of the machine's, as it was when the
// client was created, and the maximum error of that. It reports false if the server has not
// answered yet, or does not have the channel $socket.
func (c *Client) TimeOffset() (offset, maxError time.Duration, ok bool) {
	s := &c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	best := s.best()
	if best == nil {
		return 0, 0, false
	}
	return best.offset, best.maxError, true
}

// NewKey returns a key of package key with the time of Now. Each key of a client is greater than
// the one before.
func (c *Client) NewKey() string { return c.keys.New() }
