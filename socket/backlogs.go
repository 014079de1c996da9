package socket

import (
	"cmp"
	"slices"
	"time"

	"bennu.example/stream"
)

// Slowest returns the n largest backlogs of this node, by bytes and largest first: what waits for
// slow clients (stream.Outgoing) and for slow callbacks of channels (stream.Mailbox). Empty ones
// are left out. Stats.Socket is the Info.ConnectionID of the connection.
//
// Slowest takes a moment for each connection and each channel of the node. It holds no lock while
// it goes from one connection to the next.
func (h *Handler) Slowest(n int) []stream.Stats {
	if n <= 0 {
		return nil
	}
	var most []stream.Stats
	add := func(s stream.Stats) {
		if s.Bytes == 0 {
			return
		}
		if most = append(most, s); len(most)/2 > n {
			most = largest(most, n)
		}
	}
	for _, s := range h.everySession() {
		if s.phase() == phaseRefused {
			continue // it only tells its client so
		}
		frames, bytes, oldest := s.Outgoing()
		add(stream.Stats{
			Kind: stream.Outgoing, Socket: s.connectionID, Count: frames, Bytes: int64(bytes), Oldest: oldest,
		})
		for _, c := range s.others() {
			messages, bytes := c.Queued()
			add(stream.Stats{
				Kind: stream.Mailbox, Socket: s.connectionID, Topic: c.Topic(), Count: messages, Bytes: int64(bytes),
			})
		}
	}
	return largest(most, n)
}

// largest returns the n largest backlogs, largest first. It changes all.
func largest(all []stream.Stats, n int) []stream.Stats {
	slices.SortFunc(all, func(a, b stream.Stats) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return all[:min(n, len(all))]
}

// measured is implemented by connections that report how much waits for their clients.
type measured interface {
	Queued() (frames, bytes int, oldest time.Duration)
}

// Outgoing is part of channelhost.Carrier.
func (s *session) Outgoing() (frames, bytes int, oldest time.Duration) {
	if q, ok := s.conn.(measured); ok {
		return q.Queued()
	}
	return 0, 0, 0
}
