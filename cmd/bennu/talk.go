package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

// maxLine bounds a line of the input, and a payload that push reads from it.
const maxLine = 16 << 20

// maxUnanswered bounds the pushes that wait for their replies. Then the input waits.
const maxUnanswered = 64

// talker pushes the lines of the input and prints the replies.
type talker struct {
	*session
	c       *channel.Client
	noReply bool
	slots   chan struct{} // one for each push that waits for its reply
	replies sync.WaitGroup
	mu      sync.Mutex
	failed  error // of the first push that failed
}

// errSilent is the cause of an exit code whose reasons were printed already.
var errSilent = errors.New("a push failed")

// talk pushes the lines of in. At their end it waits for the replies. Its error has the exit code
// of the first push that failed.
func (s *session) talk(in io.Reader, c *channel.Client, noReply bool) error {
	t := &talker{session: s, c: c, noReply: noReply, slots: make(chan struct{}, maxUnanswered)}
	lines, ended := make(chan string), make(chan error, 1)
	go func() { ended <- s.read(in, lines) }() // may still block in a read from the terminal when the program exits
	for {
		select {
		case l := <-lines:
			t.push(l)
		case err := <-ended:
			t.replies.Wait()
			if err != nil {
				return err
			}
			if noReply && s.ctx.Err() == nil {
				return s.leave(c)
			}
			return t.failed
		case <-s.ctx.Done():
			t.replies.Wait()
			return context.Cause(s.ctx)
		}
	}
}

// push sends a line of the input, unless it is malformed.
func (t *talker) push(l string) {
	event, payload, err := parsePush(l)
	if err != nil {
		t.fail(exitUsage, fmt.Errorf("not sent: %w", err))
		return
	}
	if t.noReply {
		if err := failedAtOnce(t.c.Push(event, payload)); err != nil {
			t.fail(exitCode(err), replyError(printable(event), err))
		}
		return
	}
	select {
	case t.slots <- struct{}{}:
	case <-t.ctx.Done():
		return
	}
	p := t.c.Push(event, payload)
	t.replies.Go(func() {
		defer func() { <-t.slots }()
		status, reply, err := result(p.Wait(t.ctx))
		switch {
		case err == nil:
			t.p.printNow(replyLine(t.c.Topic(), event, status, reply))
			if status != push.StatusOK {
				t.fail(exitRefused, nil)
			}
		case t.ctx.Err() == nil:
			t.fail(exitCode(err), replyError(printable(event), err))
		}
	})
}

// fail notes an error, if it is not nil, and the exit code if it is the first one.
func (t *talker) fail(code int, err error) {
	if err != nil {
		t.p.note("%v", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = &exitError{code, errSilent}
	}
}

// result returns a reply with any status. The error says why there is none.
func result(p serializer.Payload, err error) (status string, reply serializer.Payload, _ error) {
	var other *push.Error
	if errors.As(err, &other) {
		return other.Status, other.Payload, nil
	}
	return push.StatusOK, p, err
}

// failedAtOnce returns the error of a push that was not even queued.
func failedAtOnce(p *push.Push) error {
	select {
	case <-p.Done():
		if _, _, err := result(p.Wait(context.Background())); err != nil {
			return err
		}
	default:
	}
	return nil
}

// leave leaves a topic. The server's reply means that it has handled all pushes before.
func (s *session) leave(c *channel.Client) error {
	_, err := c.Leave().Wait(s.ctx)
	if err != nil && s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return replyError("leave "+printable(c.Topic()), err)
}

// read sends the lines of in that are not blank to lines, until in or the session ends.
func (s *session) read(in io.Reader, lines chan<- string) error {
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, maxLine)
	for sc.Scan() {
		if l := strings.TrimSpace(sc.Text()); l != "" {
			select {
			case lines <- l:
			case <-s.ctx.Done():
				return nil
			}
		}
	}
	if err := sc.Err(); err != nil {
		return usage("read the input: %v", err)
	}
	return nil
}

// replyLine returns the line of a reply to an event.
func replyLine(topic, event, status string, reply serializer.Payload) line {
	return line{
		Type: "reply", Topic: topic, Event: event, Status: status, Response: payloadJSON(reply),
		text: fmt.Sprintf("%s: %s %s", printable(event), printable(status), payloadText(reply)),
	}
}

// parsePush parses a line of the input: an event and a payload, or an object with both.
func parsePush(l string) (event string, payload serializer.Payload, err error) {
	if strings.HasPrefix(l, "{") {
		var o struct {
			Event   string          `json:"event"`
			Payload json.RawMessage `json:"payload"`
		}
		if err := json.Unmarshal([]byte(l), &o); err != nil || o.Event == "" {
			return "", payload, errors.New(`want an event and a payload, such as: new_msg {"body":"hello"}`)
		}
		payload, err = parsePayload(string(o.Payload))
		return o.Event, payload, err
	}
	event, text, _ := strings.Cut(l, " ")
	payload, err = parsePayload(strings.TrimSpace(text))
	return event, payload, err
}

// clip returns the beginning of a text that is too long for a message.
func clip(text string) string {
	const limit = 200
	if len(text) > limit {
		return text[:limit] + "…"
	}
	return text
}

// parsePayload parses a payload, which is an object in JSON. Empty means an empty object.
func parsePayload(text string) (p serializer.Payload, err error) {
	if text == "" {
		return p, nil
	}
	var o map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &o); err != nil || o == nil {
		return p, fmt.Errorf(`the payload %s is not a JSON object, such as {"body":"hello"}`, printable(clip(text)))
	}
	return serializer.Value(json.RawMessage(text)), nil
}
