package natsengine

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"bennu.example/engine/internal/broker"
)

const (
	numPendingHeader = "Nats-Num-Pending"
	upToHeader       = "Nats-UpTo-Sequence"

	// maxTops bounds the topics of one request. The server answers for at most 1,024.
	maxTops = 1000

	// staleDelay is the first delay before a replica that lags is asked again. It doubles up to
	// maxStaleDelay.
	staleDelay    = time.Millisecond
	maxStaleDelay = 50 * time.Millisecond
)

// getRequest is a request for messages.
type getRequest struct {
	Seq       uint64   `json:"seq,omitempty"`
	LastFor   string   `json:"last_by_subj,omitempty"`
	NextFor   string   `json:"next_by_subj,omitempty"`
	Batch     int      `json:"batch,omitempty"`
	MaxBytes  int      `json:"max_bytes,omitempty"`
	MultiLast []string `json:"multi_last,omitempty"`
	UpTo      uint64   `json:"up_to_seq,omitempty"`
}

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
	answers, err := l.wait(ctx, r)
	if err != nil {
		return p, err
	}
	end := answers[len(answers)-1]
	switch status := end.Header.Get(statusHeader); status {
	case "204":
	case "404":
		return p, nil
	default:
		return p, unavailable(fmt.Errorf("reading: status %s %s", status, end.Header.Get(descriptionHeader)))
	}
	for _, a := range answers[:len(answers)-1] {
		m, err := received(a, epoch, whole)
		if err != nil {
			return p, unavailable(err)
		}
		p.messages = append(p.messages, m)
	}
	if p.pending, err = headerNumber(end, numPendingHeader); err != nil {
		return p, unavailable(err)
	}
	if end.Header.Get(upToHeader) != "" {
		if p.upTo, err = headerNumber(end, upToHeader); err != nil {
			return p, unavailable(err)
		}
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

// leaderAnswer is the answer of the stream's leader to a request for one message.
type leaderAnswer struct {
	Error   *apiError `json:"error"`
	Message struct {
		Subject string    `json:"subject"`
		Seq     uint64    `json:"seq"`
		Data    string    `json:"data"`
		Time    time.Time `json:"time"`
	} `json:"message"`
}

// leaderMessage waits for the answer to leader. It reports false if there is no such message.
func (l *historyLog) leaderMessage(ctx context.Context, r *request, epoch string) (m message, ok bool, err error) {
	answers, err := l.wait(ctx, r)
	if err != nil {
		return m, false, err
	}
	if answers[0].Header.Get(statusHeader) == noResponders {
		return m, false, unavailable(errNoJetStream)
	}
	var a leaderAnswer
	if err := json.Unmarshal(answers[0].Data, &a); err != nil {
		return m, false, unavailable(fmt.Errorf("a malformed answer: %w", err))
	}
	if a.Error != nil {
		if hasCode(a.Error, codeNoMessage) {
			return m, false, nil
		}
		return m, false, unavailable(a.Error)
	}
	body, err := base64.StdEncoding.DecodeString(a.Message.Data)
	if err != nil {
		return m, false, unavailable(fmt.Errorf("a malformed answer: %w", err))
	}
	m = newMessage(a.Message.Subject, a.Message.Seq, body, epoch, true)
	m.at = a.Message.Time
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

// chunk returns the end of the subjects from an index on that fit into one request.
func (l *historyLog) chunk(subjects []string, from int) int {
	l.mu.Lock()
	room := l.longest / 2
	l.mu.Unlock()
	to := from
	for ; to < len(subjects) && to-from < maxTops && (room > 0 || to == from); to++ {
		room -= len(subjects[to]) + len(`"",`)
	}
	return to
}

// lastsOf adds the last messages of some subjects to all. It reports whether the answer can be
// used.
func (l *historyLog) lastsOf(
	ctx context.Context, s *streamState, subjects []string, all map[string]message,
) (fresh bool, err error) {
	g := getRequest{MultiLast: append([]string{l.landmarkSubject()}, subjects...)}
	r, err := l.direct(g)
	if err != nil {
		return false, err
	}
	var newest *request
	if s.replicas > 1 {
		if newest, err = l.leader(getRequest{LastFor: ">"}, false); err != nil {
			_, _ = l.page(ctx, r, s.epoch, false)
			return false, err
		}
	}
	p, err := l.page(ctx, r, s.epoch, false)
	upTo := p.upTo
	for err == nil {
		for _, m := range p.messages {
			all[m.subject] = m
		}
		if p.pending == 0 || len(p.messages) == 0 {
			break
		}
		g.Seq, g.UpTo = p.last()+1, upTo
		p, err = l.get(ctx, g, s.epoch)
	}
	if newest == nil {
		return true, err
	}
	last, ok, leaderErr := l.leaderMessage(ctx, newest, s.epoch)
	if err == nil {
		err = leaderErr
	}
	return !ok || upTo >= last.seq, err
}
