package longpoll

import (
	"context"
	"time"

	"bennu.example/serializer"
)

// remoteSession is a session of another node, for one request.
type remoteSession struct {
	cluster *cluster
	node    tokenID
	id      tokenID
	polled  *outgoingCall // the call of poll, to be settled
}

// poll implements pollSession.
func (r *remoteSession) poll(ctx context.Context, p *poll) (messages []*serializer.Frame, gone bool) {
	c := r.cluster.call(r.node, p)
	if c == nil {
		return nil, true
	}
	messages, gone = r.wait(ctx, c)
	if messages == nil {
		if !c.ended {
			c.send(&peerMessage{kind: peerSettle})
		}
		c.end()
		return nil, gone
	}
	r.polled = c
	return messages, false
}

// wait requests messages and returns them when they may be written.
func (r *remoteSession) wait(ctx context.Context, c *outgoingCall) (messages []*serializer.Frame, gone bool) {
	window := r.cluster.s.cfg.Window
	begun := time.Now()
	m, ok := c.request(ctx, &peerMessage{kind: peerPoll, session: r.id})
	if !ok {
		return nil, ctx.Err() == nil
	}
	if m.kind == peerWait {
		m, ok = c.next(ctx, window+r.cluster.s.cfg.PeerTimeout)
	}
	switch {
	case !ok: // the answer is the same as when the session ends
	case m.kind == peerGone:
		c.ended = true
		return nil, true
	case m.kind == peerLater:
		c.ended = true
		c.next(ctx, window-time.Since(begun)) // only waits: no response follows
	case m.kind == peerAnswer && m.total > 0:
		return c.take(ctx, m), false
	default:
		c.ended = true
	}
	return nil, false
}

// take requests the rest of an answer that begins with m, and then permission to write it. It
// returns nil if it fails.
func (c *outgoingCall) take(ctx context.Context, m peerMessage) []*serializer.Frame {
	data, total := m.data, m.total
	for uint64(len(data)) < total {
		m, ok := c.request(ctx, &peerMessage{kind: peerMore, offset: uint64(len(data))})
		if !ok || m.kind != peerAnswer || m.offset != uint64(len(data)) || len(m.data) == 0 {
			return nil
		}
		data = append(data, m.data...)
	}
	frames, err := unpackFrames(data)
	if err != nil || ctx.Err() != nil {
		return nil
	}
	if m, ok := c.request(ctx, &peerMessage{kind: peerTake}); !ok || m.kind != peerTaken {
		return nil
	}
	return frames
}

// settle implements pollSession.
func (r *remoteSession) settle(delivered bool) {
	m := &peerMessage{kind: peerSettle}
	if delivered {
		m.number = 1
	}
	r.polled.send(m)
	r.polled.end()
}

// post implements pollSession.
func (r *remoteSession) post(ctx context.Context, parts []part, release func()) (status int) {
	defer release()
	data := packParts(parts)
	until := time.Now().Add(r.cluster.s.cfg.Window)
	for pause := minBusyPause; ; pause = min(2*pause, maxBusyPause) {
		status, busy := r.forward(ctx, data)
		if !busy {
			return status
		}
		if time.Until(until) < pause || !r.cluster.pause(ctx, pause) {
			r.cluster.s.busy.Add(1)
			return statusTimeout
		}
	}
}

// A POST for which the other node has no room is sent again after minBusyPause, and then after
// pauses that grow up to maxBusyPause, until the window ends. Meanwhile its messages are held by
// this node, which has accounted for them, and not by the other one.
const (
	minBusyPause = 100 * time.Millisecond
	maxBusyPause = 1600 * time.Millisecond
)

// pause waits for d. It reports false if it ended earlier, with ctx or the cluster.
func (p *cluster) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-p.done:
	}
	return false
}

// forward makes a call for a POST, whose messages are packed in data. It returns the status of the
// answer. It reports busy if the other node has no room for the messages.
func (r *remoteSession) forward(ctx context.Context, data []byte) (status int, busy bool) {
	c := r.cluster.call(r.node, nil)
	if c == nil {
		return statusGone, false
	}
	defer c.end()
	switch m, ok := r.send(ctx, c, data); {
	case ok && m.kind == peerGone:
		return statusGone, false
	case ok && m.kind == peerStatus:
		return int(m.number), false
	case ok && m.kind == peerBusy:
		return 0, true
	}
	c.send(&peerMessage{kind: peerSettle})
	if ctx.Err() != nil {
		return statusTimeout, false // the client has disconnected and does not receive it
	}
	return statusGone, false
}

// send sends the messages of a POST to the other node and returns the last response. It reports
// false if the other node is gone or the client has disconnected.
func (r *remoteSession) send(ctx context.Context, c *outgoingCall, data []byte) (last peerMessage, ok bool) {
	for sent := 0; ; {
		if sent < len(data) {
			chunk := data[sent:min(sent+peerChunk, len(data))]
			last, ok = c.request(ctx, &peerMessage{
				kind: peerPost, session: r.id, total: uint64(len(data)), offset: uint64(sent), data: chunk,
			})
			sent += len(chunk)
		} else {
			last, ok = c.next(ctx, r.cluster.s.cfg.PeerTimeout)
		}
		if !ok || last.kind != peerNext && last.kind != peerWait {
			return last, ok
		}
	}
}
