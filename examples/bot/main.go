// Command bot joins a room of examples/chat from a terminal or a pipe.
//
//	go run ./examples/bot -user ann -room lobby
//	echo "good morning" | go run ./examples/bot -user cron
//
// It prints messages and presence changes, and sends each line of its input. It reconnects when the
// server restarts; lines typed meanwhile are sent later. At the end of its input it waits for the
// replies and exits.
//
// With a file, the lines that the server has not answered are kept, and sent after the next start:
//
//	go run ./examples/bot -user ann -data ann.db
package main

import (
	"bufio"
	"context"
	"encoding/json"
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
	"bennu.example/engine/boltengine"
	"bennu.example/offline"
	"bennu.example/presence"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

func main() {
	var o options
	flag.StringVar(&o.url, "url", "ws://127.0.0.1:4000/socket", "URL of the server's socket")
	flag.StringVar(&o.room, "room", "lobby", "the room to join")
	flag.StringVar(&o.user, "user", "bot", "the user's name")
	data := flag.String("data", "", "file that keeps lines until they were answered; one bot at a time may use it")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := start(ctx, o, *data); err != nil {
		fmt.Fprintln(os.Stderr, "bot:", err)
		os.Exit(1)
	}
}

// start runs a bot that keeps lines in a file, or in memory without one.
func start(ctx context.Context, o options, file string) (err error) {
	o.store = offline.NewMemory()
	if o.isKept = file != ""; o.isKept {
		if o.store, err = boltengine.OpenClient(file); err != nil {
			return err
		}
	}
	return errors.Join(run(ctx, o, os.Stdin, os.Stdout), o.store.Close())
}

// options are those of a bot.
type options struct {
	url, room, user string
	store           offline.Store // of the lines that were not answered
	isKept          bool          // the store outlives the bot
	client          socket.ClientConfig
}

const (
	// flushTimeout bounds the wait for the last replies.
	flushTimeout = 10 * time.Second
	// closeTimeout bounds the end of the client.
	closeTimeout = 5 * time.Second
)

// run sends and prints messages until the input ends, ctx ends, or the server refuses the join.
func run(ctx context.Context, o options, in io.Reader, out io.Writer) error {
	wanted, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	p := &printer{out: out}
	o.client.Offline = &offline.Config{
		Store: o.store, Identity: o.user, KeepOthers: true, Ordered: true, OnDelivered: p.delivered,
	}
	s := socket.NewClient(o.url, &o.client)
	for _, e := range s.Undelivered() {
		p.printf("* not sent yet, to %s: %s", roomOf(e.Topic), bodyOf(e))
	}
	room := s.Channel("room:"+o.room, map[string]string{"user": o.user})
	p.follow(s, room, o.user)
	if o.isKept { // the next start prints what came meanwhile
		room.Keep(offline.Keep)
	}
	room.Join().Receive(push.StatusError, func(reply serializer.Payload) {
		refuse(fmt.Errorf("join refused: %s", reason(reply)))
	})
	s.Connect()

	lines, ended := make(chan string), make(chan error, 1)
	go func() { ended <- read(in, lines) }() // may still block in a read from the terminal when the program exits
	err := talk(wanted, room, lines, ended, p)
	return errors.Join(err, finish(ctx, wanted, s, o.isKept, p))
}

// finish waits for the replies to the last lines, and closes the client.
func finish(ctx, wanted context.Context, s *socket.Client, isKept bool, p *printer) (err error) {
	flush, cancel := context.WithTimeout(wanted, flushTimeout)
	defer cancel()
	if !isKept || s.State().Status != socket.StatusWaiting { // no attempt to connect has failed
		_ = s.Flush(flush) // p has printed each line that failed
	}
	left := len(s.Undelivered())
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	err = s.Close(end)
	switch {
	case left > 0 && isKept:
		p.printf("* lines kept for the next start: %d", left)
	case left > 0 && ctx.Err() == nil && wanted.Err() == nil:
		err = errors.Join(err, fmt.Errorf("lines without an answer: %d", left))
	}
	if ctx.Err() == nil && wanted.Err() != nil {
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

// roomOf returns the name of the room of a topic.
func roomOf(topic string) string { return strings.TrimPrefix(topic, "room:") }

// bodyOf returns the line of an entry.
func bodyOf(e offline.Entry) string {
	var m message
	if err := json.Unmarshal(e.Payload, &m); err != nil {
		return string(e.Payload)
	}
	return m.Body
}

// talk sends each line. It waits until a line is stored, not until it is answered.
func talk(ctx context.Context, room *channel.Client, lines <-chan string, ended <-chan error, p *printer) error {
	for {
		select {
		case line := <-lines:
			if _, err := room.PushDurable(ctx, "new_msg", map[string]string{"body": line}); err != nil {
				p.printf("* not sent (%v): %s", err, line)
			}
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

// delivered prints what has become of a line, unless it was sent: then it comes as a message.
func (p *printer) delivered(e offline.Entry, _ serializer.Payload, err error) {
	refused, ok := errors.AsType[*push.Error](err)
	switch {
	case ok:
		p.printf("* not sent: %s", refused.Reason())
	case errors.Is(err, offline.ErrExpired) && !errors.Is(err, push.ErrLost):
		p.printf("* not sent in time: %s", bodyOf(e))
	case err != nil:
		p.printf("* perhaps not sent (%v): %s", err, bodyOf(e))
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
		p.printf("* joined %s as %s", roomOf(room.Topic()), user)
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
