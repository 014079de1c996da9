package longpoll

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/dial"
)

const (
	postMaxLines = 100       // a server uses no more of a POST
	postMaxBytes = 512 << 10 // bytes of a POST with several lines; servers have their own limits on a body
)

// Write posts the frames, one request after the other. It returns when the last one is answered: what waits for a request is
// left with the caller, who can still decide about it.
func (c *clientConn) Write(frames ...*serializer.Frame) error {
	if err := c.startWriting(); err != nil {
		return err
	}
	defer func() { <-c.writing }()
	for len(frames) > 0 {
		n := c.Batch(frames)
		if err := c.deliver(postedBody(frames[:n])); err != nil {
			c.fail(err)
			return c.over()
		}
		frames = frames[n:]
	}
	return nil
}

// startWriting waits for the Writes before this one.
func (c *clientConn) startWriting() error {
	select {
	case c.writing <- struct{}{}:
	case <-c.closing:
		return transport.ErrClosed
	case <-c.done:
		return c.over()
	}
	err := c.over()
	select {
	case <-c.closing: // select chooses at random among what is ready
		err = transport.ErrClosed
	default:
	}
	if err != nil {
		<-c.writing
	}
	return err
}

// Batch returns how many frames go into the next request.
func (c *clientConn) Batch(frames []*serializer.Frame) int {
	n, size := 0, 0
	for n < len(frames) && n < postMaxLines {
		f := frames[n]
		if n > 0 && (size+postedSize(f) > postMaxBytes || postedAlone(f)) {
			break
		}
		n++
		size += postedSize(f)
		if postedAlone(f) {
			break
		}
	}
	return n
}

// deliver makes the request, and once more if it did not reach the session because of how the token was sent. The error is
// what ends the session.
func (c *clientConn) deliver(contentType string, body []byte) error {
	for {
		t := c.session()
		status, err := c.request(contentType, body, t)
		if err != nil {
			return err
		}
		if status == lpGone && !t.proven {
			select {
			case <-c.settled:
			case <-c.done:
			}
			if c.session().text != t.text {
				continue // the server has not read the body
			}
		}
		if status != lpOK {
			return dial.CloseError(transport.CodeInternal, lpInternal, fmt.Errorf("transport: post answered with status %d", status))
		}
		c.bytesOut.Add(uint64(len(body)))
		if !t.proven {
			c.prove()
			if c.session().text != t.text {
				return &transport.CloseError{Code: transport.CodeSessionGone, Reason: "session_gone"} // and the poll is of another
			}
		}
		return nil
	}
}

// request makes one request and returns the status of its answer. The error is what ends the session.
func (c *clientConn) request(contentType string, body []byte, t lpToken) (int, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	resp, err := c.send(ctx, http.MethodPost, contentType, body, t)
	var buf bytes.Buffer
	if err == nil {
		err = c.receive(resp, &buf)
	}
	var a lpAnswer
	if err == nil {
		a, err = parseLPAnswer(buf.Bytes(), c.maxMessage)
	}
	if err != nil {
		return 0, c.requestError(ctx, "post", err)
	}
	return a.Status, nil
}

// postedAlone reports whether f cannot be a line among others: only text that begins with a bracket is told from base64, which the
// objects of 1.0.0 do not, and a line cannot contain one's end.
func postedAlone(f *serializer.Frame) bool {
	return f.Op == serializer.OpText && (len(f.Data) == 0 || f.Data[0] != '[' || bytes.IndexByte(f.Data, '\n') >= 0)
}

// postedSize is how long f is in a body, with a line's end.
func postedSize(f *serializer.Frame) int {
	if f.Op == serializer.OpBinary {
		return base64.StdEncoding.EncodedLen(len(f.Data)) + 1
	}
	return len(f.Data) + 1
}

// postedBody makes the body of a request.
func postedBody(batch []*serializer.Frame) (contentType string, body []byte) {
	if postedAlone(batch[0]) {
		return "application/json", batch[0].Data
	}
	size := 0
	for _, f := range batch {
		size += postedSize(f)
	}
	body = make([]byte, 0, size)
	for i, f := range batch {
		if i > 0 {
			body = append(body, '\n')
		}
		if f.Op == serializer.OpBinary {
			body = base64.StdEncoding.AppendEncode(body, f.Data)
		} else {
			body = append(body, f.Data...)
		}
	}
	return "application/x-ndjson", body
}
