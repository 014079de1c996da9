package socket

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"bennu.example/key"
)

// Version is the version of this module. The server and the client report it to each other on the
// channel $socket.
const Version = "0.9.0"

// Info describes a connection. The server has it from [InfoFrom], and the client from
// [Client.Info].
type Info struct {
	// ConnectionID names this connection. The server makes it in the handshake, as a key of package
	// key.
	ConnectionID string
	// ClientID names a program or a page over all of its connections. It is the connect parameter
	// $client, or made by the server if there is none. It is not a credential: clients without a
	// Subject can choose that of another, unless it is secret.
	ClientID string
	// Subject is Request.ID. It is empty on the client.
	Subject string
	// Version is the server's.
	Version string
	// Limits are the server's bounds for this connection.
	Limits Limits
	// Server reports whether the server has the channel $socket. If it is false, a client knows only
	// the ClientID.
	Server bool
}

// Limits are the bounds of a connection: see the fields of Config. Zero means no bound.
type Limits struct {
	Message, Queue                 int64 // bytes: MaxMessage, MaxQueue
	Channels, Topic, Joins, Pushes int   // MaxChannels, MaxTopic, JoinRate, MessageRate
	Idle                           time.Duration
}

// InfoFrom returns the connection that a callback of a channel belongs to. The context is the
// callback's, or made from it. In Connect, use the Request.
func InfoFrom(ctx context.Context) (info Info, ok bool) {
	s := sessionFrom(ctx)
	if s == nil {
		return Info{}, false
	}
	info = s.info()
	if v, _ := ctx.Value(grantKey{}).(*verified); v != nil {
		info.Subject = v.grant.ID // a callback sees one grant from its start to its end
	}
	return info, true
}

// identity is what the handshake determines about a session.
type identity struct {
	parent     context.Context // of the contexts of the callbacks
	id         *idWatch        // nil if the socket is anonymous
	connection string          // Info.ConnectionID
	client     string          // Info.ClientID
	ownClient  bool            // the client gave it
	order      uint64          // the connect parameter $order, or zero
	longPoll   bool
	grant      *verified // nil without Config.Auth
	refused    bool      // the session only tells its client that it was refused finally
	reason     string    // of refused
}

// sessionContext is the parent of the contexts of a session's callbacks.
type sessionContext struct {
	context.Context
	s *session
}

type sessionKey struct{}

func (c *sessionContext) Value(key any) any {
	if key == (sessionKey{}) {
		return c.s
	}
	return c.Context.Value(key)
}

// sessionFrom returns the session of a callback's context, or nil.
func sessionFrom(ctx context.Context) *session {
	s, _ := ctx.Value(sessionKey{}).(*session)
	return s
}

func (s *session) info() Info {
	return Info{
		ConnectionID: s.connectionID, ClientID: s.clientID, Subject: s.subject(), Version: Version,
		Limits: s.h.limits(s.isLongPoll), Server: true,
	}
}

// limits returns the bounds of a connection.
func (h *Handler) limits(longPoll bool) Limits {
	l := Limits{
		Message:  h.cfg.WebSocket.MaxMessage,
		Queue:    int64(h.cfg.WebSocket.MaxQueue),
		Channels: h.cfg.MaxChannels,
		Topic:    h.cfg.MaxTopic,
		Joins:    max(h.cfg.JoinRate, 0),
		Pushes:   max(h.cfg.MessageRate, 0),
		Idle:     h.cfg.WebSocket.IdleTimeout,
	}
	if longPoll { // which has no idle time: the client polls
		l.Message, l.Queue, l.Idle = h.cfg.LongPoll.MaxMessage, int64(h.cfg.LongPoll.MaxQueue), 0
	}
	return l
}

const (
	paramClient = "$client" // the connect parameter with the client's id
	paramOrder  = "$order"  // the connect parameter with the order of the client's connections
	maxOrder    = 1<<53 - 1
	minClientID = 16
	maxClientID = 64
)

// clientIDParam returns the client's id from its connect parameters, or makes one if there is none.
// An invalid id is an error, because it is a mistake of the program: if the server replaced it, the
// program would not be recognized when it comes back.
func clientIDParam(params map[string]any) (string, error) {
	v, found := params[paramClient]
	if !found {
		return newClientID(), nil
	}
	id, isString := v.(string)
	if !isString || !isClientID(id) {
		return "", fmt.Errorf("socket: parameter %s is not 16 to 64 letters, digits, - and _", paramClient)
	}
	return id, nil
}

// orderParam returns the client's number for its connection, or zero.
func orderParam(params map[string]any) (uint64, error) {
	v, found := params[paramOrder]
	if !found {
		return 0, nil
	}
	text, _ := v.(string)
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > maxOrder {
		return 0, fmt.Errorf("socket: parameter %s is not an integer from 0 to 2^53-1", paramOrder)
	}
	return n, nil
}

func newClientID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

func isClientID(id string) bool {
	if len(id) < minClientID || len(id) > maxClientID {
		return false
	}
	for _, c := range []byte(id) {
		if !('0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// newConnectionID returns the id of a new connection.
func newConnectionID() string { return key.New() }

// ClientID is part of channelhost.Carrier. It depends on the subject as well: otherwise a user who
// gives the client id of another one could make events that the other does not get in a replay.
func (s *session) ClientID() string {
	if w := s.id.Load(); w != nil {
		return w.clientOf(s.clientID)
	}
	return s.clientID
}

// Identity is part of channelhost.Carrier.
func (s *session) Identity() (subject, client, connection string) {
	if s.hasClientID {
		client = s.clientID
	}
	return s.subject(), client, s.connectionID
}

// clientOf returns the name of a client of the subject in records. It has a bounded length, and a
// character that no client id has.
func (w *idWatch) clientOf(clientID string) string {
	name := w.client.Load()
	if name == nil {
		sum := sha256.Sum256([]byte(w.id))
		text := clientID + "." + base64.RawURLEncoding.EncodeToString(sum[:subjectBytes])
		name = &text
		w.client.Store(name)
	}
	return *name
}

// subjectBytes is the length of the hash of a subject in the name of its client.
const subjectBytes = 12
