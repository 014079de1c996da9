package natsengine

import (
	"cmp"
	"context"

	"github.com/nats-io/nats.go"

	"bennu.example/engine/internal/broker"
)

// page is the answer to a direct request.
type page struct {
	messages []message
	pending  uint64 // messages that follow the last one
	upTo     uint64 // the last sequence that the answer to MultiLast considers
}

// last returns the sequence of the last message, or zero.
func (p *page) last() uint64 {
	if len(p.messages) == 0 {
		return 0
	}
	return p.messages[len(p.messages)-1].seq
}

// page waits for the answer to direct. With whole, the records are decoded.
func (l *historyLog) page(ctx context.Context, r *request, epoch string, whole bool) (p page, err error) {
	answer, err := l.answered(ctx, r)
	if err != nil {
		return p, err
	}
	p.pending, p.upTo = answer.pending, answer.upTo
	for _, a := range answer.messages {
		m, err := received(a, epoch, whole)
		if err != nil {
			return p, unavailable(err)
		}
		p.messages = append(p.messages, m)
	}
	return p, nil
}

// get is direct and page.
func (l *historyLog) get(ctx context.Context, g getRequest, epoch string) (page, error) {
	r, err := l.direct(g)
	if err != nil {
		return page{}, err
	}
	return l.page(ctx, r, epoch, true)
}

// leaderMessage waits for the answer to leader. It reports false if there is no such message.
func (l *historyLog) leaderMessage(ctx context.Context, r *request, epoch string) (m message, ok bool, err error) {
	stored, ok, err := l.leaderAnswered(ctx, r)
	if err != nil || !ok {
		return m, false, err
	}
	m = newMessage(stored.subject, stored.seq, stored.data, epoch, true)
	m.at = stored.at
	return m, true, nil
}

// leaderGet is leader and leaderMessage.
func (l *historyLog) leaderGet(ctx context.Context, g getRequest, epoch string, control bool) (message, bool, error) {
	r, err := l.leader(g, control)
	if err != nil {
		return message{}, false, err
	}
	return l.leaderMessage(ctx, r, epoch)
}

// lasts returns the last messages of subjects, by subject, and the newest landmark.
//
// If there are replicas, one that lags may answer. Therefore the leader is asked for the stream's
// last message at the same time, and an answer that does not go as far is not used.
func (l *historyLog) lasts(ctx context.Context, s *streamState, subjects []string) (map[string]message, uint64, error) {
	all := make(map[string]message, len(subjects)+1)
	for delay := staleDelay; ; delay = min(2*delay, maxStaleDelay) {
		fresh := true
		for from := 0; from < len(subjects); {
			to := l.chunk(subjects, from)
			ok, err := l.lastsOf(ctx, s, subjects[from:to], all)
			if err != nil {
				return nil, 0, err
			}
			from, fresh = to, fresh && ok
		}
		mark, ok := all[l.landmarkSubject()]
		switch {
		case ok && fresh:
			return all, mark.seq, nil
		case fresh: // removed, because the stream has too many bytes
			l.mu.Lock()
			l.checkSoon()
			l.mu.Unlock()
		}
		if broker.Sleep(ctx, delay); ctx.Err() != nil {
			return nil, 0, unavailable(ctx.Err())
		}
	}
}

// lastsOf adds the last messages of some subjects to all. It reports whether the answer can be
// used.
func (l *historyLog) lastsOf(
	ctx context.Context, s *streamState, subjects []string, all map[string]message,
) (fresh bool, err error) {
	var malformed error
	subjects = append([]string{l.landmarkSubject()}, subjects...)
	fresh, err = l.lastMessages(ctx, s.replicas, subjects, func(m *nats.Msg) {
		decoded, err := received(m, s.epoch, false)
		if err != nil {
			malformed = unavailable(err)
		}
		all[decoded.subject] = decoded
	})
	return fresh, cmp.Or(err, malformed)
}
