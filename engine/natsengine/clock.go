package natsengine

import "time"

// clockSamples is the number of measurements of the server's clock of which the best counts.
const clockSamples = 8

// serverClock estimates the time of the server.
type serverClock struct{ samples []clockSample }

// clockSample is a measurement: how far the server's clock is ahead, and how long it took.
type clockSample struct{ offset, within time.Duration }

// measured adds a measurement: the server's time, read by a request that was sent at a time and
// answered some time later.
func (c *serverClock) measured(server, sent time.Time, within time.Duration) {
	c.samples = append(c.samples, clockSample{server.Sub(sent.Add(within / 2)), within})
	if len(c.samples) > clockSamples {
		c.samples = c.samples[1:]
	}
}

// now returns the time of the server.
func (c *serverClock) now() time.Time {
	best := clockSample{within: 1 << 62}
	for _, s := range c.samples {
		if s.within < best.within {
			best = s
		}
	}
	return time.Now().Add(best.offset)
}
