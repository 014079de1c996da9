package natsengine

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
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

// acquire waits until the stream is known and one more request for records may run. The caller must
// call release if err is nil.
func (l *remote) acquire(ctx context.Context) (streamState, error) {
	select {
	case l.reads <- struct{}{}:
	case <-ctx.Done():
		return streamState{}, unavailable(ctx.Err())
	}
	s, err := l.known(ctx, limits{})
	if err != nil {
		l.release()
	}
	return s, err
}

func (l *remote) release() { <-l.reads }

// load requests the last message of the topic, and the messages from a sequence on. Without
// replicas, it requests both at the same time.
func (v *view) load(ctx context.Context, from uint64, count int) (p page, err error) {
	l, g := v.log, getRequest{Seq: max(from, 1), NextFor: v.subject, Batch: count}
	var r *request
	if v.state.replicas <= 1 {
		if r, err = l.direct(g); err != nil {
			return p, err
		}
	}
	lasts, landmark, err := l.lasts(ctx, &v.state, []string{v.subject})
	if r == nil && err == nil {
		r, err = l.direct(g)
	}
	if r != nil {
		var pageErr error
		p, pageErr = l.page(ctx, r, v.state.epoch, true)
		err = cmp.Or(err, pageErr)
	}
	if err != nil {
		return p, err
	}
	v.last, v.exists = lasts[v.subject]
	v.landmark = landmark
	n := len(p.messages)
	switch {
	case p.pending > 0: // the page does not go as far
	case n > 0 && (p.last() > v.last.seq || v.state.replicas <= 1): // one was requested later than the other
		v.last, v.exists = p.messages[n-1], true
	case v.exists && from <= v.last.seq && p.last() < v.last.seq:
		return p, errAgain
	}
	v.top = l.top(&v.state, v.topic, v.last, v.exists, landmark)
	return p, nil
}

// reading bounds the time of a request for records.
func (l *remote) reading(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, l.timeout)
}

// direct begins a request for several messages to any replica of the stream.
func (l *remote) direct(g getRequest) (*request, error) {
	g.MaxBytes = maxPart
	data, err := json.Marshal(g)
	if err != nil {
		return nil, err
	}
	r := &request{subject: "$JS.API.DIRECT.GET." + l.stream, data: data, many: true, again: true}
	return r, l.start(r)
}

// leader begins a request for one message to the stream's leader, which has every message that was
// confirmed.
func (l *remote) leader(g getRequest, control bool) (*request, error) {
	data, err := json.Marshal(g)
	if err != nil {
		return nil, err
	}
	r := &request{subject: "$JS.API.STREAM.MSG.GET." + l.stream, data: data, again: true, control: control}
	return r, l.start(r)
}

// answer is the answer to a direct request.
type answer struct {
	messages []*nats.Msg
	pending  uint64 // messages that follow the last one
	upTo     uint64 // the last sequence that the answer to MultiLast considers
}

// answered waits for the answer to direct.
func (l *remote) answered(ctx context.Context, r *request) (a answer, err error) {
	answers, err := l.wait(ctx, r)
	if err != nil {
		return a, err
	}
	end := answers[len(answers)-1]
	switch status := end.Header.Get(statusHeader); status {
	case "204":
	case "404":
		return a, nil
	default:
		return a, unavailable(fmt.Errorf("reading: status %s %s", status, end.Header.Get(descriptionHeader)))
	}
	a.messages = answers[:len(answers)-1]
	if a.pending, err = headerNumber(end, numPendingHeader); err != nil {
		return a, unavailable(err)
	}
	if end.Header.Get(upToHeader) != "" {
		if a.upTo, err = headerNumber(end, upToHeader); err != nil {
			return a, unavailable(err)
		}
	}
	return a, nil
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

// storedMessage is a message of the stream.
type storedMessage struct {
	subject string
	seq     uint64
	at      time.Time
	data    []byte
}

// leaderAnswered waits for the answer to leader. It reports false if there is no such message.
func (l *remote) leaderAnswered(ctx context.Context, r *request) (m storedMessage, ok bool, err error) {
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
	return storedMessage{a.Message.Subject, a.Message.Seq, a.Message.Time, body}, true, nil
}

// lastMessages calls f with the last messages of some subjects. It reports false if the answer may
// be that of a replica that lags.
func (l *remote) lastMessages(
	ctx context.Context, replicas int, subjects []string, f func(m *nats.Msg),
) (fresh bool, err error) {
	g := getRequest{MultiLast: subjects}
	r, err := l.direct(g)
	if err != nil {
		return false, err
	}
	var newest *request
	if replicas > 1 {
		if newest, err = l.leader(getRequest{LastFor: ">"}, false); err != nil {
			_, _ = l.answered(ctx, r)
			return false, err
		}
	}
	a, err := l.answered(ctx, r)
	upTo := a.upTo
	for err == nil {
		var last uint64
		for _, m := range a.messages {
			f(m)
			if last, err = headerNumber(m, nats.JSSequence); err != nil {
				return false, unavailable(err)
			}
		}
		if a.pending == 0 || len(a.messages) == 0 {
			break
		}
		g.Seq, g.UpTo = last+1, upTo
		if r, err = l.direct(g); err == nil {
			a, err = l.answered(ctx, r)
		}
	}
	if newest == nil {
		return true, err
	}
	last, ok, leaderErr := l.leaderAnswered(ctx, newest)
	return !ok || upTo >= last.seq, cmp.Or(err, leaderErr)
}

// chunk returns the end of the subjects from an index on that fit into one request.
func (l *remote) chunk(subjects []string, from int) int {
	l.mu.Lock()
	room := l.longest / 2
	l.mu.Unlock()
	to := from
	for ; to < len(subjects) && to-from < maxTops && (room > 0 || to == from); to++ {
		room -= len(subjects[to]) + len(`"",`)
	}
	return to
}

// headerNumber returns a number from a header.
func headerNumber(m *nats.Msg, name string) (uint64, error) {
	n, ok := number([]byte(m.Header.Get(name)))
	if !ok {
		return 0, fmt.Errorf("%w: header %s", errMalformed, name)
	}
	return uint64(n), nil
}
