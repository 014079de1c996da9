package websocket_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	coder "github.com/coder/websocket"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

// TestServerReads checks that the server's own reader of frames changes nothing that a session or a
// client can observe: see sameReading.
func TestServerReads(t *testing.T) {
	for i, stream := range differentialSeeds() {
		for _, options := range []uint16{0, optEarly, optPause | optStay, optDeflate, optDeflate | optShort, optFew,
			optClose, optRefuse} {
			sameReading(t, stream, []byte{0}, options)
			sameReading(t, stream, []byte{1 + byte(i%16), 255}, options)
		}
		sameReading(t, stream, []byte{1}, optStay)
	}
}

// TestServerReadsRandomStreams makes the same comparison for random frames.
func TestServerReadsRandomStreams(t *testing.T) {
	n := 300
	if os.Getenv("NIGHTLY") == "true" {
		n = 30_000
	}
	seeds := differentialSeeds()
	for range n {
		var stream []byte
		for range 1 + rand.IntN(6) {
			if rand.IntN(3) > 0 {
				stream = append(stream, seeds[2*rand.IntN(len(seeds)/2)]...)
				continue
			}
			b := make([]byte, 2+rand.IntN(40))
			for i := range b {
				b[i] = byte(rand.Uint32())
			}
			b[0] = []byte{0, fin}[rand.IntN(2)] | []byte{opText, opBinary, opCont, opPing, opPong, b[0]}[rand.IntN(6)]
			stream = append(stream, generated(b)...)
		}
		cuts := make([]byte, 1+rand.IntN(4))
		for i := range cuts {
			cuts[i] = byte(rand.IntN([]int{1, 4, 20, 256}[rand.IntN(4)]))
		}
		bits := rand.Uint32()
		options := uint16(bits) & uint16(bits>>16) & (optGrammar - 1) // each with a probability of a quarter
		if sameReading(t, stream, cuts, options); t.Failed() {
			return
		}
	}
}

// FuzzServerReads makes the same comparison for other streams.
func FuzzServerReads(f *testing.F) {
	for i, stream := range differentialSeeds() {
		f.Add(stream, []byte{byte(i % 20), 255}, uint16(1)<<(i%8))
	}
	f.Add([]byte("\x81\x05hello\x89\x02hi\x82\x30\x01\xff\x88\x02\x03\xe8"), []byte{0}, uint16(optGrammar))
	f.Add([]byte("\x01\x05hello\x89\x02hi\x80\x30\x01\xc1\x06\xf2\x48\xcd\xc9\xc9\x07"), []byte{7},
		uint16(optGrammar|optDeflate))
	f.Fuzz(func(t *testing.T, stream, cuts []byte, options uint16) {
		if len(stream) > 1<<14 || len(cuts) > 64 {
			return
		}
		if options&optGrammar != 0 {
			stream = generated(stream)
		}
		sameReading(t, stream, cuts, options)
	})
}

// sameReading sends the same bytes, in the same pieces and at the same times, to a server that
// reads whole frames itself, and to one whose connections are read by coder/websocket alone.
// Everything that the sessions and the client observe must be the same.
func sameReading(t *testing.T, stream, cuts []byte, options uint16) {
	t.Helper()
	own := observe(t, stream, cuts, options, false)
	library := observe(t, stream, cuts, options, true)
	if own != library {
		t.Errorf("options %#x, cuts %v, stream %q:\nread by ourselves:\n%s\nread by the library:\n%s", options, cuts,
			stream, own, library)
	}
}

// The options of one exchange.
const (
	optDeflate = 1 << iota // compression is negotiated
	optShort               // messages are limited to 64 bytes
	optFew                 // messages are limited to 3 fragments
	optEarly               // net/http has read the first piece with the request
	optPause               // the client pauses for 6 s after each piece, which is too long within a control frame
	optStay                // the client does not close the connection
	optClose               // the session closes the connection when it receives the second message
	optRefuse              // the session refuses the third message
	optGrammar             // the stream describes frames: see generated
)

// differentialSeeds returns what clients send: good and bad frames, alone and between others.
func differentialSeeds() [][]byte {
	small := deflatedAt(-1, "Hello")
	interesting := [][]byte{
		f(fin|opText, ""), f(fin|opText, "a"), f(fin|opText, strings.Repeat("*", 125)),
		f(fin|opBinary, strings.Repeat("\xfe", 126)), f(fin|opText, strings.Repeat("*", 600)), f(fin|opText, "\xff"),
		f(fin|opText, strings.Repeat("x", 64)), f(fin|opText, strings.Repeat("x", 65)),
		f(fin|opPing, ""), f(fin|opPing, "ping"), f(fin|opPing, strings.Repeat("p", 125)),
		f(fin|opPing, strings.Repeat("p", 126)), f(opPing, "part"), f(fin|opPong, "pong"),
		f(fin|opClose, ""), f(fin|opClose, "\x03"), f(fin|opClose, closePayload(1000, "bye")),
		f(fin|opClose, closePayload(1005, "")), f(fin|opClose, closePayload(1001, "\xff")),
		f(fin|opClose, closePayload(4000, "")), f(fin|opClose, closePayload(1012, "")), f(fin|opClose, closePayload(999, "")),
		f(fin|opClose, closePayload(1015, "")), f(fin|opClose, closePayload(1000, strings.Repeat("x", 124))),
		f(fin|rsv1|opText, small), f(fin|rsv1|opText, deflatedFinal("last block")), f(fin|rsv1|opText, "\xff\xff"),
		f(fin|rsv1|opPing, "x"), f(fin|0x20|opText, "x"), f(fin|3, "x"), f(fin|opCont, "x"), f(opText, "first"),
		frames(f(opText, "a"), f(opCont, "b"), f(fin|opPing, "between"), f(fin|opCont, "c")),
		frames(f(opText, "a"), f(opCont, "b"), f(opCont, "c"), f(fin|opCont, "d")),
		frames(f(rsv1|opText, small[:3]), f(fin|opCont, small[3:])),
		frames(f(rsv1|opText, deflatedFinal("a")), f(fin|opCont, "rest")),
		{fin | opText, 1, 'x'}, {fin | opText, 0x80 | 126, 0, 1, 0, 0, 0, 0, 'x'},
		{fin | opPing, 0x80 | 126, 0, 1, 0, 0, 0, 0, 'x'}, {fin | opText, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 'x'},
		{fin | opText, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 'x'}, {fin | opText}, {fin | opText, 0x85, 1, 2},
		{fin | opClose, 0x82, 1, 2, 3, 4, 2}, {fin | opPing, 0x84, 1, 2, 3, 4, 'h'},
	}
	before := frames(f(fin|opText, "before"), f(fin|opPing, "before"))
	after := frames(f(fin|opText, "after"), f(fin|opPong, ""), f(fin|opPing, "after"), f(fin|opText, "last"))
	var seeds [][]byte
	for _, stream := range interesting {
		seeds = append(seeds, stream, frames(before, stream, after))
	}
	return seeds
}

// generated returns the frames that b describes: for each frame two bytes and its payload. The
// first is the frame's own, the second has the length and, in its upper bits, what is unusual.
func generated(b []byte) (stream []byte) {
	for len(b) >= 2 && len(stream) < 1<<14 {
		first, second := b[0], b[1]
		n := min(int(second&0x3f), len(b)-2)
		payload := string(b[2 : 2+n])
		b = b[2+n:]
		switch second >> 6 {
		case 1: // longer
			payload = strings.Repeat(payload, 1+n%13)
		case 2: // it does not arrive completely
			frame := maskedFrame(first, payload)
			stream = append(stream, frame[:len(frame)-n/2]...)
			continue
		case 3: // compressed
			payload = deflatedAt(1, payload)
		}
		stream = append(stream, maskedFrame(first, payload)...)
	}
	return stream
}

// observe returns what a session and a client observe when the client sends a stream in pieces.
// Cuts are the sizes of the pieces, again and again; zero stands for everything that is left.
func observe(t *testing.T, stream, cuts []byte, options uint16, library bool) string {
	var seen strings.Builder
	synctest.Test(t, func(t *testing.T) {
		cfg := websocket.Config{Compress: options&optDeflate != 0}
		if options&optShort != 0 {
			cfg.MaxMessage = 64
		}
		if options&optFew != 0 {
			cfg.MaxFragments = 3
		}
		s := websocket.NewServer(cfg)
		if library {
			s.ForceLibrary()
		}
		start := time.Now()
		var pieces [][]byte
		for i := 0; len(stream) > 0; i++ {
			n := len(stream)
			if len(cuts) > 0 && cuts[i%len(cuts)] > 0 && i < 300 {
				n = min(n, int(cuts[i%len(cuts)]))
			}
			pieces = append(pieces, stream[:n])
			stream = stream[n:]
		}
		var early []byte
		if options&optEarly != 0 && len(pieces) > 0 {
			early, pieces = pieces[0], pieces[1:]
		}

		client, server := net.Pipe()
		var out bytes.Buffer
		read := make(chan struct{})
		go func() {
			io.Copy(&out, client)
			close(read)
		}()
		session := &observer{seen: &seen, options: options, ended: make(chan struct{})}
		open := func(c transport.Conn) transport.Session {
			session.Conn = c
			return session
		}
		if err := s.Serve(newFakeWriter(halfCloser{server}, early), upgrade(offerDeflate), "", open); err != nil {
			t.Fatal(err)
		}
		for _, piece := range pieces {
			synctest.Wait()
			if _, err := client.Write(piece); err != nil {
				break // the server has closed the connection
			}
			if options&optPause != 0 {
				time.Sleep(6 * time.Second) // in virtual time
			}
		}
		synctest.Wait()
		if options&optStay == 0 {
			client.Close()
		}
		<-session.ended
		fmt.Fprintf(&seen, "after %v\n", time.Since(start))
		client.Close()
		<-read
		s.Wait()
		st := s.Stats()
		fmt.Fprintf(&seen, "client received %q\n", out.Bytes())
		fmt.Fprintf(&seen, "idle %d, too big %d, invalid %d\n", st.Idle, st.TooBig, st.Invalid)
	})
	return seen.String()
}

// halfCloser is a pipe that claims to be half-closed, as TCP can be. Without that, the time of the
// end depends on whether the reader finds a violation before or after the close frame is written.
type halfCloser struct{ net.Conn }

func (halfCloser) CloseWrite() error { return nil }

// observer is a session that records what it observes.
type observer struct {
	transport.Conn
	seen     *strings.Builder
	options  uint16
	messages int
	ended    chan struct{}
}

func (o *observer) Receive(op serializer.Op, data []byte) error {
	o.messages++
	fmt.Fprintf(o.seen, "received %d %q\n", op, data)
	if o.options&optClose != 0 && o.messages == 2 {
		o.Close(transport.CodeRestart, "")
	}
	if o.options&optRefuse != 0 && o.messages == 3 {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (o *observer) Closed(err error) {
	fmt.Fprintf(o.seen, "closed: %v\n", err)
	close(o.ended)
}

// upgrade returns a handshake.
func upgrade(header ...string) *http.Request {
	text := "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + wsKey + "\r\n" + strings.Join(header, "\r\n") + "\r\n\r\n"
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		panic(err)
	}
	return r
}

// fakeWriter is a ResponseWriter that gives up nc, with bytes that were read from it before.
type fakeWriter struct {
	header http.Header
	status int
	nc     net.Conn
	early  []byte
}

func newFakeWriter(nc net.Conn, early []byte) *fakeWriter {
	return &fakeWriter{header: make(http.Header), nc: nc, early: early}
}

func (w *fakeWriter) Header() http.Header         { return w.header }
func (w *fakeWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *fakeWriter) WriteHeader(status int)      { w.status = status }

func (w *fakeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	br := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(w.early), w.nc), max(16, len(w.early)))
	_, _ = br.Peek(len(w.early))
	return w.nc, bufio.NewReadWriter(br, bufio.NewWriter(w.nc)), nil
}

// FuzzHandshake compares the answers to handshakes with those of coder/websocket.
func FuzzHandshake(f *testing.F) {
	for _, extensions := range []string{
		"", "permessage-deflate", "permessage-deflate;", "permessage-deflate; client_max_window_bits",
		"permessage-deflate; client_max_window_bits=10; server_no_context_takeover", "Permessage-Deflate",
		"permessage-deflate; server_max_window_bits=10, permessage-deflate", "x, permessage-deflate ;client_max_window_bits",
		"permessage-deflate; server_max_window_bits=15", "permessage-deflate; unknown", ",,;", "x-webkit-deflate-frame",
	} {
		f.Add(extensions, "", "", wsKey)
		f.Add(extensions, "base64url.bearer.phx.MTIzNA, Phoenix", "phoenix", "AAAAAAAAAAAAAAAAAAAAAA==")
	}
	f.Add("", "a,,b", "", wsKey)
	f.Add("", "a", "b", wsKey)
	f.Fuzz(func(t *testing.T, extensions, offers, protocol, key string) {
		for _, compress := range []bool{false, true} {
			var answers [2]string
			for i := range answers {
				r := upgrade()
				r.Header.Set("Sec-WebSocket-Extensions", extensions)
				r.Header.Set("Sec-WebSocket-Protocol", offers)
				r.Header.Set("Sec-WebSocket-Key", key)
				client, server := net.Pipe()
				w := newFakeWriter(server, nil)
				w.header.Set("X-Middleware", "stays")
				if i == 0 {
					s := websocket.NewServer(websocket.Config{Compress: compress})
					ended := make(chan struct{})
					err := s.Serve(w, r, protocol, func(c transport.Conn) transport.Session {
						return &observer{seen: new(strings.Builder), ended: ended}
					})
					if err != nil {
						return // which the library would answer with another text
					}
					client.Close()
					<-ended
				} else {
					opts := &coder.AcceptOptions{InsecureSkipVerify: true}
					if protocol != "" {
						opts.Subprotocols = []string{protocol}
					}
					if compress {
						opts.CompressionMode = coder.CompressionNoContextTakeover
					}
					conn, err := coder.Accept(w, r, opts)
					if err != nil {
						t.Fatalf("the library refuses with %d: %v", w.status, err)
					}
					client.Close()
					_ = conn.CloseNow()
				}
				var b strings.Builder
				for _, name := range slices.Sorted(maps.Keys(w.header)) {
					fmt.Fprintf(&b, "%s: %q\n", name, w.header[name])
				}
				answers[i] = fmt.Sprintf("%d\n%s", w.status, b.String())
			}
			if answers[0] != answers[1] {
				t.Errorf("compress %v: our answer is\n%s\nthe library's is\n%s", compress, answers[0], answers[1])
			}
		}
	})
}
