package main

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"runtime"
	"sync"

	"github.com/coder/websocket"
)

// poolServer serves WebSockets with coder/websocket, which reads. A pool of goroutines writes.
type poolServer struct {
	ready chan *poolConn // those with output that no writer has

	mu     sync.Mutex
	topics map[string]map[*poolConn]bool
}

// poolConn is a connection. A writer takes all of its output at once.
type poolConn struct {
	conn net.Conn

	mu     sync.Mutex
	out    *[]byte // from buffers, nil if there is none
	queued bool    // it is in poolServer.ready, or a writer has it
}

// maxConns bounds the connections, so that none waits to be queued.
const maxConns = 1 << 20

func newPoolServer() *poolServer {
	s := &poolServer{ready: make(chan *poolConn, maxConns), topics: map[string]map[*poolConn]bool{}}
	for range max(1, runtime.GOMAXPROCS(0)/2) {
		go s.write() // until the process ends
	}
	return s
}

// captured keeps the connection that coder/websocket takes over.
type captured struct {
	http.ResponseWriter
	conn net.Conn
}

func (w *captured) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.conn = conn
	return conn, rw, err
}

func (s *poolServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	capture := &captured{ResponseWriter: w}
	ws, err := websocket.Accept(capture, r, nil)
	if err != nil {
		return // it has answered
	}
	// The request and its buffers are not kept while the connection is idle.
	go s.read(ws, &poolConn{conn: capture.conn})
}

func (s *poolServer) read(ws *websocket.Conn, c *poolConn) {
	ws.SetReadLimit(1 << 20)
	topic := ""
	defer ws.CloseNow()
	defer func() { s.leave(topic, c) }()
	for {
		_, message, err := ws.Read(context.Background())
		if err != nil || len(message) == 0 {
			return
		}
		switch message[0] {
		case 'j':
			s.leave(topic, c)
			topic = string(message[1:])
			s.join(topic, c)
			s.send(c, appendText(nil, message))
		case 'l':
			s.leave(topic, c)
			s.send(c, appendText(nil, message))
		case 'p':
			frame := appendText(nil, message[1:])
			s.mu.Lock()
			for member := range s.topics[topic] {
				s.send(member, frame)
			}
			s.mu.Unlock()
		case 'e':
			s.send(c, appendText(nil, message[1:]))
		}
	}
}

func (s *poolServer) join(topic string, c *poolConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics[topic] == nil {
		s.topics[topic] = map[*poolConn]bool{}
	}
	s.topics[topic][c] = true
}

func (s *poolServer) leave(topic string, c *poolConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.topics[topic], c)
}

func (s *poolServer) send(c *poolConn, frame []byte) {
	c.mu.Lock()
	if c.out == nil {
		c.out = buffers.Get().(*[]byte)
	}
	*c.out = append(*c.out, frame...)
	first := !c.queued
	c.queued = true
	c.mu.Unlock()
	if first {
		s.ready <- c
	}
}

// buffers are those for output.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// write writes the output of connections, each in one call, which blocks if its client is slow.
func (s *poolServer) write() {
	for c := range s.ready {
		c.mu.Lock()
		out := c.out
		c.out = nil
		c.mu.Unlock()
		_, err := c.conn.Write(*out)
		*out = (*out)[:0]
		buffers.Put(out)
		c.mu.Lock()
		if err != nil {
			c.out = nil // its reader ends as well
		}
		c.queued = c.out != nil
		again := c.queued
		c.mu.Unlock()
		if again {
			s.ready <- c
		}
	}
}
