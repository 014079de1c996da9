package websocket_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

// A wsPath is one of the ways in which a server reaches the network.
type wsPath struct {
	name      string
	tls       bool
	portable  bool
	goroutine bool // one for each connection, although there is a descriptor
}

var wsPaths = []wsPath{
	{name: "descriptor"},
	{name: "goroutine", goroutine: true},
	{name: "portable", portable: true},
	{name: "tls", tls: true},
}

// onEachPath runs a test once for each path, with a server of cfg.
func onEachPath(t *testing.T, cfg websocket.Config, f func(t *testing.T, s *wsServer)) {
	for _, p := range wsPaths {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			f(t, startWS(t, cfg, p))
		})
	}
}

// eventually waits until done returns true.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for ; !done(); time.Sleep(time.Millisecond) { // for events of which the test is not notified
		if time.Now().After(deadline) {
			t.Fatalf("%s takes too long", what)
		}
	}
}

// wsServer serves WebSockets and passes their sessions to the test.
type wsServer struct {
	t    testing.TB
	ws   *websocket.Server
	addr string
	tls  *tls.Config

	prepare atomic.Pointer[func(*wsSession)] // called in open
	opened  chan *wsSession
	open    atomic.Pointer[func(transport.Conn) transport.Session] // replaces sessions, if set
}

// startWS starts a server on loopback. When the test ends, it waits for everything that the server
// started.
func startWS(t testing.TB, cfg websocket.Config, p wsPath) *wsServer {
	s := newWSServer(t, cfg)
	if p.portable {
		s.ws.ForcePortable()
	}
	if p.goroutine {
		s.ws.WithoutPoller()
	}
	hs := httptest.NewUnstartedServer(s)
	if p.tls {
		hs.StartTLS()
		s.tls = hs.Client().Transport.(*http.Transport).TLSClientConfig
	} else {
		hs.Start()
	}
	s.addr = hs.Listener.Addr().String()
	t.Cleanup(func() {
		hs.Close()
		s.ws.Wait()
	})
	return s
}

func newWSServer(t testing.TB, cfg websocket.Config) *wsServer {
	return &wsServer{t: t, ws: websocket.NewServer(cfg), opened: make(chan *wsSession, 5000)}
}

func (s *wsServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := s.ws.Serve(w, r, r.URL.Query().Get("protocol"), func(c transport.Conn) transport.Session {
		if f := s.open.Load(); f != nil {
			return (*f)(c)
		}
		session := &wsSession{Conn: c, ws: s.ws, received: make(chan wsMessage, 5000), closed: make(chan error, 1)}
		if f := s.prepare.Load(); f != nil {
			(*f)(session)
		}
		s.opened <- session
		return session
	})
	if err != nil && !strings.HasPrefix(err.Error(), "websocket: handshake: ") {
		s.t.Errorf("Serve: %v", err)
	}
}

func (s *wsServer) dial() net.Conn {
	s.t.Helper()
	var nc net.Conn
	var err error
	if s.tls != nil {
		nc, err = tls.Dial("tcp", s.addr, s.tls)
	} else {
		nc, err = net.Dial("tcp", s.addr)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { nc.Close() })
	return nc
}

// connect returns both ends of a new connection.
func (s *wsServer) connect(header ...string) (*wsPeer, *wsSession) {
	s.t.Helper()
	p := handshake(s.t, s.dial(), "/", header...)
	select {
	case session := <-s.opened:
		return p, session
	case <-time.After(10 * time.Second):
		s.t.Fatal("no session")
		return nil, nil
	}
}

type wsMessage struct {
	op   serializer.Op
	data string
}

// wsSession is a session that passes everything to the test.
type wsSession struct {
	transport.Conn
	ws       *websocket.Server                         // the server
	receive  func(op serializer.Op, data []byte) error // replaces received, if set
	received chan wsMessage
	closed   chan error
	inside   atomic.Int32
}

func (s *wsSession) Receive(op serializer.Op, data []byte) error {
	if s.inside.Add(1) != 1 {
		panic("two concurrent calls")
	}
	defer s.inside.Add(-1)
	if s.receive != nil {
		return s.receive(op, data)
	}
	s.received <- wsMessage{op, string(data)}
	return nil
}

func (s *wsSession) Closed(err error) {
	if s.inside.Add(1) != 1 {
		panic("Closed while Receive runs")
	}
	s.inside.Add(1e6) // any further call panics
	s.closed <- err
}

func (s *wsSession) text(t testing.TB, text string) {
	t.Helper()
	if err := s.Send(textFrame(text), transport.Delivery{Policy: transport.Disconnect}); err != nil {
		t.Fatalf("Send: %v", err)
	}
}

// broadcast is the Delivery of broadcasts and pushes.
var broadcast = transport.Delivery{}

func textFrame(text string) *serializer.Frame {
	return &serializer.Frame{Op: serializer.OpText, Data: []byte(text)}
}

// end returns the argument of Closed.
func (s *wsSession) end(t testing.TB) error {
	t.Helper()
	select {
	case err := <-s.closed:
		if err == nil {
			t.Error("Closed(nil)")
		}
		return err
	case <-time.After(time.Minute):
		t.Fatal("the session was not closed")
		return nil
	}
}

func (s *wsSession) wantCode(t testing.TB, code int) {
	t.Helper()
	err := s.end(t)
	if ce, ok := errors.AsType[*transport.CloseError](err); !ok || ce.Code != code {
		t.Errorf("Closed(%v), want code %d", err, code)
	}
}

func (s *wsSession) next(t testing.TB) wsMessage {
	t.Helper()
	select {
	case m := <-s.received:
		return m
	case <-time.After(20 * time.Second):
		t.Fatal("no message")
		return wsMessage{}
	}
}

// wsPeer is a client that sends and receives single frames, including invalid ones. It answers
// nothing by itself.
type wsPeer struct {
	net.Conn
	t   testing.TB
	br  *bufio.Reader
	res *http.Response
}

const wsKey = "dGhlIHNhbXBsZSBub25jZQ=="

// handshake performs the handshake on a connection.
func handshake(t testing.TB, nc net.Conn, uri string, header ...string) *wsPeer {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", uri, wsKey)
	for _, h := range header {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("\r\n")
	p := &wsPeer{Conn: nc, t: t, br: bufio.NewReaderSize(nc, 1024)}
	p.write([]byte(b.String()))
	var err error
	if p.res, err = http.ReadResponse(p.br, nil); err != nil {
		t.Fatal(err)
	}
	if p.res.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(p.res.Body)
		t.Fatalf("handshake: %s: %s", p.res.Status, body)
	}
	return p
}

func (p *wsPeer) write(b []byte) {
	p.t.Helper()
	if _, err := p.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

const (
	opCont   = 0
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
	fin      = 0x80
	rsv1     = 0x40
)

// maskedFrame returns a client's frame. First is its first byte.
func maskedFrame(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n <= 125:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	key := []byte{1, 2, 3, 4}
	b = append(b, key...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i&3])
	}
	return b
}

func (p *wsPeer) send(first byte, payload string) {
	p.t.Helper()
	p.write(maskedFrame(first, payload))
}

func (p *wsPeer) sendText(payload string) {
	p.t.Helper()
	p.send(fin|opText, payload)
}

func closePayload(code int, reason string) string {
	if code == 0 {
		return ""
	}
	return string([]byte{byte(code >> 8), byte(code)}) + reason
}

// read returns the next frame.
func (p *wsPeer) read() (first byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(p.br, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1])
	switch n {
	case 126:
		var b [2]byte
		if _, err := io.ReadFull(p.br, b[:]); err != nil {
			return 0, nil, err
		}
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		if _, err := io.ReadFull(p.br, b[:]); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(b[:])
	}
	if n > 1<<30 {
		return 0, nil, fmt.Errorf("frame of %d bytes", n)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(p.br, payload)
	return head[0], payload, err
}

func (p *wsPeer) frame() (first byte, payload []byte) {
	p.t.Helper()
	first, payload, err := p.read()
	if err != nil {
		p.t.Fatalf("instead of a frame: %v", err)
	}
	return first, payload
}

func (p *wsPeer) want(first byte, payload string) {
	p.t.Helper()
	f, b := p.frame()
	if f != first || !bytes.Equal(b, []byte(payload)) {
		p.t.Fatalf("got frame %#x %.100q of %d bytes, want %#x %.100q of %d", f, b, len(b), first, payload, len(payload))
	}
}

// wantClose reads a close frame that has a code and no reason.
func (p *wsPeer) wantClose(code int) {
	p.t.Helper()
	p.want(fin|opClose, closePayload(code, ""))
}

// wantEnd reads the end of the stream.
func (p *wsPeer) wantEnd() {
	p.t.Helper()
	if _, err := p.br.ReadByte(); err != io.EOF {
		p.t.Fatalf("instead of the end: %v", err)
	}
}

// finish performs the close handshake.
func (p *wsPeer) finish(s *wsSession) {
	p.t.Helper()
	p.send(fin|opClose, closePayload(1001, ""))
	for {
		first, b := p.frame()
		if first == fin|opClose {
			if string(b) != closePayload(1000, "") {
				p.t.Fatalf("close frame %q", b)
			}
			break
		}
	}
	p.wantEnd()
	s.wantCode(p.t, 1001)
}
