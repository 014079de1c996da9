package natsengine

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"bennu.example/history"
)

const (
	// appendTimeout bounds the wait of Append, and of Forget.
	appendTimeout = 2 * time.Second

	// busyDelay is the delay before an append is sent again whose ID is being stored.
	busyDelay = 10 * time.Millisecond
)

// historyLog implements history.Log by a stream of JetStream.
//
// It has a connection of its own: so it works without the adapter, and the many bytes of a recovery
// do not delay the messages of the adapter. See remote.
type historyLog struct {
	remote

	maxBytes int64
	inbox    history.Inbox // set by Run
}

func newHistoryLog(b *backend, cfg Config) *historyLog {
	l := &historyLog{maxBytes: cfg.MaxBytes}
	l.init(b, cfg, "history")
	l.what, l.stream = "history log", streamName(b.prefix)
	l.probes, l.feeds = l.landmarkSubject(), b.prefix+".r."
	l.ensure, l.fed, l.deliver, l.gapped = l.ensureStream, l.feed, l.callInbox, l.callGap
	l.need = limits{count: leastCount + 1, age: leastAge}
	return l
}

// Run is part of history.Log.
func (l *historyLog) Run(ctx context.Context, in history.Inbox) error {
	return l.run(ctx, func() { l.inbox = in })
}

// subject returns the subject in the stream for the token of a topic.
func (l *historyLog) subject(token string) string { return l.prefix + ".h." + token }

// Append is part of history.Log.
func (l *historyLog) Append(
	ctx context.Context, topic string, r history.Record, k history.Keep,
) (history.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	r, stored, err := l.append(ctx, topic, r, k)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.health.Failed++
		return history.Record{}, l.wrap("append", err)
	}
	if stored {
		l.health.Appended++
	}
	return r, nil
}

// append returns the record. It reports false if another one with the ID was stored before.
func (l *historyLog) append(
	ctx context.Context, topic string, r history.Record, k history.Keep,
) (_ history.Record, stored bool, err error) {
	if len(r.Event)+len(r.From) > maxTexts || len(r.ID) > maxID || len(r.Origin) > maxOrigin {
		return r, false, history.ErrTooLarge
	}
	k, _ = history.Rules{"*": k}.Rule("") // with the defaults
	s, err := l.known(ctx, limits{count: k.Count + 1, age: k.Age})
	if err != nil {
		return r, false, err
	}
	r.Time = time.UnixMilli(time.Now().UnixMilli())
	r.Position, r.Prev = history.Position{}, history.Position{}
	tag := history.NewTag()
	data := appendHead(make([]byte, 0, storedSize(&r)), kindRecord, k, s.epoch, tag)
	before := len(data)
	if data, err = r.AppendBinary(data); err != nil {
		return r, false, err
	}
	if r, err = history.ParseRecord(data[before:]); err != nil { // with the payload as it is stored
		return r, false, err
	}
	if len(r.Payload.Bytes()) > k.Bytes {
		return r, false, history.ErrTooLarge
	}
	name := token(topic)
	subject := l.subject(name)
	id := messageID(name, r.ID, 0)
	for {
		a, err := l.store(ctx, &request{subject: subject, data: data, header: id})
		if err != nil {
			return r, false, err
		}
		if !a.Duplicate {
			r.Position, err = l.position(a.Seq, tag)
			return r, true, err
		}
		first, ok, err := l.first(ctx, subject, r.ID, a.Seq, k)
		if err != nil {
			return r, false, err
		}
		if ok { // it may be this record, if it was sent twice
			return first, first.Position.Tag() == tag, nil
		}
		// The stream still knows the ID, but the topic no longer has the record.
		id = messageID(name, r.ID, a.Seq)
	}
}

// storedSize estimates the size of the stored form.
func storedSize(r *history.Record) int {
	const header = 64
	return header + len(r.Event) + len(r.ID) + len(r.From) + len(r.Origin) + len(r.Payload.Bytes())
}

// messageID returns the header by which the stream recognises a record that it has stored before.
// It returns nil without an ID. If the record before was removed, its sequence makes a new header,
// which is equal on all nodes.
func messageID(topic, id string, before uint64) nats.Header {
	if id == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(topic + " " + id + " " + strconv.FormatUint(before, 10)))
	return nats.Header{nats.MsgIdHdr: {base64.RawURLEncoding.EncodeToString(sum[:])}}
}

// position returns the position of a record that was stored.
func (l *historyLog) position(seq uint64, tag string) (history.Position, error) {
	l.mu.Lock()
	epoch := l.state.epoch
	l.mu.Unlock()
	p, err := history.NewPosition(epoch, seq, tag)
	if err != nil {
		err = fmt.Errorf("%w: %w", history.ErrFull, err)
	}
	return p, err
}

// first returns the record of an ID, if the topic still has it.
func (l *historyLog) first(
	ctx context.Context, subject, id string, seq uint64, k history.Keep,
) (r history.Record, ok bool, err error) {
	l.mu.Lock()
	s := l.state
	l.mu.Unlock()
	p, err := l.get(ctx, getRequest{Seq: seq, NextFor: subject, Batch: 1}, s.epoch)
	if err != nil {
		return r, false, uncertain(err)
	}
	var m message
	if len(p.messages) > 0 && p.messages[0].seq == seq {
		m, ok = p.messages[0], p.pending < uint64(k.Count)
	} else if s.replicas > 1 {
		if m, ok, err = l.leaderGet(ctx, getRequest{Seq: seq}, s.epoch, false); err != nil {
			return r, false, uncertain(err)
		}
	}
	ok = ok && m.isRecord() && m.subject == subject && m.rec.ID == id && time.Since(m.at) < k.Age
	return m.rec, ok, nil
}

// uncertain is for a record that may have been stored.
func uncertain(err error) error { return fmt.Errorf("%w: %w", history.ErrUncertain, err) }

// Forget is part of history.Log. It stores a marker, with which the stream removes everything that
// it has of the topic, in one step.
func (l *historyLog) Forget(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	s, err := l.known(ctx, limits{})
	if err != nil {
		return l.wrap("forget", err)
	}
	_, err = l.store(ctx, &request{
		subject: l.subject(token(topic)), data: newMarker(kindForgotten, s.epoch), again: true,
		header: nats.Header{nats.MsgRollup: {nats.MsgRollupSubject}},
	})
	return l.wrap("forget", err)
}
