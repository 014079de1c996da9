// Command bot joins a room of examples/chat from a terminal or a pipe.
//
//	go run ./examples/bot -user ann -room lobby
//	echo "good morning" | go run ./examples/bot -user cron
//
// It prints messages and presence changes, and sends each line of its input. It reconnects when the
// server restarts; lines typed meanwhile are sent later. At the end of its input it waits for the
// replies and exits.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

func main() {
	url := flag.String("url", "ws://127.0.0.1:4000/socket", "URL of the server's socket")
	room := flag.String("room", "lobby", "the room to join")
	user := flag.String("user", "bot", "the user's name")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, socket.NewClient(*url, nil), *room, *user, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bot:", err)
		os.Exit(1)
	}
}

// flushTimeout bounds the wait for the last replies.
const flushTimeout = 10 * time.Second

// run sends and prints messages until the input ends, ctx ends, or the server refuses the join. It
// closes the client.
func run(ctx context.Context, s *socket.Client, name, user string, in io.Reader, out io.Writer) error {
	wanted, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	room := s.Channel("room:"+name, map[string]string{"user": user})
	p := &printer{out: out}
	p.follow(s, room, user)
	room.Join().Receive(push.StatusError, func(reply serializer.Payload) {
		refuse(fmt.Errorf("join refused: %s", reason(reply)))
	})
	s.Connect()

	lines, ended := make(chan string), make(chan error, 1)
	go func() { ended <- read(in, lines) }() // may still block in a read from the terminal when the program exits
	err := talk(wanted, room, lines, ended, p)

	end, cancel := context.WithTimeout(wanted, flushTimeout)
	defer cancel()
	flushed := s.Flush(end)
	if _, ok := errors.AsType[*socket.FlushError](flushed); ok && end.Err() == nil {
		flushed = nil // talk has printed each line that failed
	}
	err = errors.Join(err, flushed, s.Close(end))
	switch {
	case ctx.Err() != nil: // interrupted: do not wait for replies
		return nil
	case wanted.Err() != nil:
		return context.Cause(wanted)
	}
	return err
}

// read sends the non-blank lines of in to lines, until in ends.
func read(in io.Reader, lines chan<- string) error {
	s := bufio.NewScanner(in)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" {
			lines <- line
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read input: %w", err)
	}
	return nil
}

// reason returns the reason of an error reply.
func reason(reply serializer.Payload) string { return (&push.Error{Payload: reply}).Reason() }

// talk pushes each line. If a push fails, it only prints a message.
func talk(ctx context.Context, room *channel.Client, lines <-chan string, ended <-chan error, p *printer) error {
	for {
		select {
		case line := <-lines:
			room.Push("new_msg", map[string]string{"body": line}).
				Receive(push.StatusError, func(reply serializer.Payload) {
					p.printf("* not sent: %s", reason(reply))
				}).
				Receive(push.StatusFailed, func(reply serializer.Payload) {
					p.printf("* perhaps not sent (%s): %s", reason(reply), line)
				}).
				Receive(push.StatusTimeout, func(serializer.Payload) {
					p.printf("* no reply to: %s", line)
				})
		case err := <-ended:
			return err
		case <-room.Done():
			_, err := room.State()
			return fmt.Errorf("room closed: %w", err)
		case <-ctx.Done():
			return nil
		}
	}
}

// printer writes lines, one at a time.
type printer struct {
	mu  sync.Mutex
	out io.Writer
}

func (p *printer) printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format+"\n", args...)
}

type message struct {
	ID   string    `json:"id"`
	User string    `json:"user"`
	Body string    `json:"body"`
	At   time.Time `json:"at"`
}

// follow prints messages and presence changes. The callbacks of a channel do not run concurrently,
// so they may share state.
func (p *printer) follow(s *socket.Client, room *channel.Client, user string) {
	seen := make(map[string]bool) // by ID: messages of the last reply that had some
	show := func(m message) {
		if m.ID == "" || !seen[m.ID] {
			p.printf("%s %s: %s", m.At.Local().Format(time.TimeOnly), m.User, m.Body)
		}
	}
	// A message that is sent during the join may be in its reply and also follow. After a reconnect,
	// the missed messages follow, unless OnReset is called again.
	room.Resume(channel.ResumeConfig{OnReset: func(reply serializer.Payload, _ string) {
		var welcome struct {
			Messages []message `json:"messages"`
		}
		if err := reply.Decode(&welcome); err != nil {
			p.printf("* invalid join reply: %v", err)
		}
		for _, m := range welcome.Messages {
			show(m)
		}
		clear(seen)
		for _, m := range welcome.Messages {
			seen[m.ID] = true
		}
	}})
	room.OnJoin(func(serializer.Payload) {
		p.printf("* joined %s as %s", strings.TrimPrefix(room.Topic(), "room:"), user)
	})
	room.On("new_msg", func(payload serializer.Payload) {
		var m message
		if err := payload.Decode(&m); err == nil {
			show(m)
		}
	})
	room.OnError(func(err error) { p.printf("* disconnected from the room: %v", err) })

	who := presence.NewClient(room, nil)
	who.OnJoin(func(key string, before, _ presence.Entry) {
		if len(before.Metas) == 0 {
			p.printf("* %s is here", key)
		}
	})
	who.OnLeave(func(key string, left, _ presence.Entry) {
		if len(left.Metas) == 0 {
			p.printf("* %s has left", key)
		}
	})

	s.OnState(func(st socket.State) {
		if st.Status == socket.StatusWaiting {
			p.printf("* no connection (%v), next try in %v", st.Cause, time.Until(st.Until).Round(time.Millisecond))
		}
	})
}
