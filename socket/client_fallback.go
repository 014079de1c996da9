package socket

import (
	"errors"
	"os"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// What is here runs on the loop. With Fallback, long poll is used only for as long as it must be. That a WebSocket once opened
// and answered is no proof that WebSockets work here: middleboxes let it open and cut it a moment later, or when a message
// is large. So each end of a WebSocket is judged.

const (
	// clientShortLife is how soon a WebSocket must be lost for that to count against WebSockets.
	clientShortLife = 10 * time.Second
	// clientBadLives is how many in a row show that WebSockets do not work here.
	clientBadLives = 3
	// clientProbation is for how long a WebSocket must hold after that to show that they work again. Until then one loss
	// is enough to go back to long poll.
	clientProbation = time.Minute
	// clientProbeRare bounds the time between tries of a WebSocket where they do not last.
	clientProbeRare = time.Hour
	// clientLarge is the size from which a message may be what a middlebox does not let through.
	clientLarge = 8 << 10
	// clientMaxProof bounds the size of the heartbeat that shows that large messages get through.
	clientMaxProof = 1 << 20
)

// clientDoubt is what is known against WebSockets on this network.
type clientDoubt struct {
	bad      int           // WebSockets in a row that were cut soon, or when something large was under way
	proof    clientProof   // by which the next one must show that it is better; zero: it opens and answers
	until    time.Time     // long poll is tried first until then
	after    time.Duration // between tries of a WebSocket; it doubles
	onTrial  bool          // the present connection is a WebSocket that must hold for clientProbation
	unproven bool          // clientBadLives were reached, and no WebSocket has held for clientProbation since
}

// clientProof is what a WebSocket must do to be taken for one that lasts.
type clientProof struct {
	hold time.Duration // for so long it must live
	size int           // of a heartbeat that it must answer
}

// judge takes the end of a connection as evidence. An end that the server announced by a code, or that was wished for, is none.
func (c *Client) judge(k *clientConn, err error) {
	var closed *transport.CloseError
	if c.cfg.Transport != TransportFallback || k.name != "websocket" {
		return
	}
	d := &c.doubt
	life, large := time.Since(k.opened), k.largeUnderWay()
	isShort := life < clientShortLife || d.onTrial && life < clientProbation
	switch {
	case errors.As(err, &closed):
		d.bad = 0
	case large > 0, isShort, errors.Is(err, ErrHeartbeat), errors.Is(err, os.ErrDeadlineExceeded):
		d.bad++
		d.proof.size = max(d.proof.size, min(large, clientMaxProof))
		if isShort && large == 0 {
			d.proof.hold = max(d.proof.hold, min(2*life, clientProbation), clientShortLife/2)
		}
		if d.bad >= clientBadLives || d.onTrial {
			c.cfg.Logger.Warn().Err(err).Int("connections", d.bad).Msg("socket: WebSocket does not last, trying long poll")
			d.bad, d.unproven = 0, true
			d.until = time.Now().Add(max(d.after, clientProbeFirst))
		}
	default:
		d.bad = 0
	}
	if d.onTrial = false; life >= clientProbation && d.bad == 0 && !d.until.After(time.Now()) {
		*d = clientDoubt{}
	}
}

// noteFallback takes the transport of a new connection as evidence: that long poll works where a WebSocket did not, or
// that a WebSocket works.
func (c *Client) noteFallback(got clientDialed) {
	if c.cfg.Transport != TransportFallback {
		return
	}
	d := &c.doubt
	if got.by == TransportWebSocket {
		d.until = time.Time{}
		if !d.unproven {
			d.after = 0
		}
		return
	}
	if got.poor != nil {
		c.cfg.Logger.Warn().Err(got.poor).Msg("socket: WebSocket does not work, but long poll does")
	}
	c.probeLater(0)
}

// probeLater has a WebSocket tried after a time that doubles, but not before the server allows it.
func (c *Client) probeLater(advice time.Duration) {
	d := &c.doubt
	most := clientProbeMost
	if d.unproven {
		most = clientProbeRare
	}
	if d.after == 0 {
		d.after = clientProbeFirst
	} else {
		d.after = min(2*d.after, most)
	}
	wait := max(d.after, advice)
	d.until = time.Now().Add(wait)
	c.loop.Arm(&c.probe, wait)
}

// probeDue tries a WebSocket beside the long poll, or moves to one that has waited long enough.
func (c *Client) probeDue() {
	if c.better.conn != nil {
		c.move()
		return
	}
	if c.conn == nil || c.conn.name != clientLongPoll || c.cancelProbe != nil {
		return
	}
	c.probes++
	id := c.probes
	c.cancelProbe = c.attemptLater([]ClientTransport{TransportWebSocket}, c.doubt.proof, func(got clientDialed) { c.probed(id, got) })
}

func (c *Client) probed(id uint64, got clientDialed) {
	stale := id != c.probes || c.cancelProbe == nil
	if !stale {
		c.cancelProbe = nil
	}
	onLongPoll := c.conn != nil && c.conn.name == clientLongPoll
	switch {
	case got.conn != nil && (stale || !onLongPoll):
		c.newConn(got.conn, "").shut(clientCodeNormal, "")
	case got.conn != nil:
		c.better = got
		c.loop.Arm(&c.probe, clientMoveWait)
	case onLongPoll:
		c.probeLater(adviceOf(got.err))
	}
}

// moveIfQuiet moves to the WebSocket that works again once no push would be lost by that.
func (c *Client) moveIfQuiet() {
	if c.better.conn != nil && c.unanswered == 0 {
		c.move()
	}
}

func (c *Client) move() {
	better := c.takeBetter()
	c.drop(clientCodeNormal, "", c.farewells(), func(d clientlink.Channel) { d.Closed(errMoved) })
	c.noteFallback(better)
	c.opened(better)
}

// sent notes that a message goes to the connection. Only one that is large is of interest, and of these the last.
func (k *clientConn) sent(o *clientlink.Out) {
	if size := len(o.Msg.Payload.Bytes()); size >= clientLarge {
		k.largeRef, k.largeSize = o.Ref, size
	}
}

// replied notes that a reply came. The server reads in order: a reply to what was sent after a large message, or to it,
// shows that the message got through.
func (k *clientConn) replied(m *serializer.Message) {
	if k.largeRef == 0 {
		return
	}
	if n, ok := clientRefNumber(m.Ref); ok && n >= k.largeRef {
		k.largeRef, k.largeSize = 0, 0
	}
}

// largeUnderWay is the size of a large message that has not got through: sent and not known to have been read, or
// received in part. Zero means that there is none.
func (k *clientConn) largeUnderWay() int {
	in, _ := k.t.Bytes()
	if part := in - min(in, k.framed.Load()); part >= clientLarge {
		return max(k.largeSize, int(min(part, clientMaxProof)))
	}
	return k.largeSize
}

// takeBetter returns the WebSocket that works again, if there is one.
func (c *Client) takeBetter() clientDialed {
	better := c.better
	c.doubt.onTrial = better.conn != nil && c.doubt.unproven
	c.better = clientDialed{}
	c.loop.Disarm(&c.probe)
	return better
}

func (c *Client) stopProbe() {
	c.loop.Disarm(&c.probe)
	if c.cancelProbe != nil {
		c.cancelProbe()
		c.cancelProbe = nil
	}
	if better := c.takeBetter(); better.conn != nil {
		c.newConn(better.conn, "").shut(clientCodeNormal, "")
	}
}
