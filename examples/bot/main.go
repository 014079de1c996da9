// Command bot talks in a room of examples/chat from a terminal, or a pipe.
//
//	go run ./examples/bot -user ann -room lobby
//	echo "good morning" | go run ./examples/bot -user cron
//
// It shows what is said and who comes and goes, sends each line that is typed, and survives the server's restart: what is typed meanwhile is
// sent later. At the end of its input it waits for the answers and ends.
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
	url := flag.String("url", "ws://127.0.0.1:4000/socket", "the server's socket")
	room := flag.String("room", "lobby", "the room to talk in")
	user := flag.String("user", "bot", "the name to talk under")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *url, *room, *user, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bot:", err)
		os.Exit(1)
	}
}

// goodbye is how long the last messages may take to be answered.
const goodbye = 10 * time.Second

// run talks until the input ends, ctx does, or the server does not want us.
func run(ctx context.Context, url, name, user string, in io.Reader, out io.Writer) error {
	wanted, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	s := socket.NewClient(url, nil)
	room := s.Channel("room:"+name, map[string]string{"user": user})
	p := &printer{out: out}
	p.follow(s, room, user)
	room.Join().Receive(push.StatusError, func(reply serializer.Payload) { refuse(fmt.Errorf("not let in: %s", reason(reply))) })
	s.Connect()

	lines, ended := make(chan string), make(chan error, 1)
	go func() { ended <- read(in, lines) }() // it may stay blocked in a terminal's read when the program ends
	err := talk(wanted, room, lines, ended, p)

	end, cancel := context.WithTimeout(wanted, goodbye)
	defer cancel()
	err = errors.Join(err, s.Flush(end), s.Close(end))
	switch {
	case ctx.Err() != nil: // interrupted: nobody waits for answers
		return nil
	case wanted.Err() != nil:
		return context.Cause(wanted)
	}
	return err
}

// read sends the lines of in that are not blank, until in ends.
func read(in io.Reader, lines chan<- string) error {
	s := bufio.NewScanner(in)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" {
			lines <- line
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read the input: %w", err)
	}
	return nil
}

// reason is why the server said no.
func reason(reply serializer.Payload) string { return (&push.Error{Payload: reply}).Reason() }

// talk pushes line after line. A message that is refused is told, and nothing else happens.
func talk(ctx context.Context, room *channel.Client, lines <-chan string, ended <-chan error, p *printer) error {
	for {
		select {
		case line := <-lines:
			room.Push("new_msg", map[string]string{"body": line}).
				Receive(push.StatusError, func(reply serializer.Payload) { p.printf("* not sent: %s", reason(reply)) }).
				Receive(push.StatusFailed, func(reply serializer.Payload) { p.printf("* perhaps not sent (%s): %s", reason(reply), line) }).
				Receive(push.StatusTimeout, func(serializer.Payload) { p.printf("* no answer to: %s", line) })
		case err := <-ended:
			return err
		case <-room.Done():
			_, err := room.State()
			return fmt.Errorf("the room is closed: %w", err)
		case <-ctx.Done():
			return nil
		}
	}
}

// printer writes a line at a time.
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

// follow prints what happens. Callbacks of the room run one at a time, so they may share what they know.
func (p *printer) follow(s *socket.Client, room *channel.Client, user string) {
	said := make(map[string]bool) // by id: a room tells what was said before at every join
	show := func(m message) {
		if m.ID != "" && said[m.ID] {
			return
		}
		said[m.ID] = true
		p.printf("%s %s: %s", m.At.Local().Format(time.TimeOnly), m.User, m.Body)
	}
	room.OnJoin(func(reply serializer.Payload) {
		var welcome struct {
			Messages []message `json:"messages"`
		}
		if err := reply.Decode(&welcome); err != nil {
			p.printf("* the server welcomes in a way that this bot does not know: %v", err)
		}
		for _, m := range welcome.Messages {
			show(m)
		}
		p.printf("* joined %s as %s", strings.TrimPrefix(room.Topic(), "room:"), user)
	})
	room.On("new_msg", func(payload serializer.Payload) {
		var m message
		if err := payload.Decode(&m); err == nil {
			show(m)
		}
	})
	room.OnError(func(err error) { p.printf("* out of the room: %v", err) })

	who := presence.NewClient(room, nil)
	who.OnJoin(func(key string, before, _ presence.Entry) {
		if len(before.Metas) == 0 {
			p.printf("* %s is here", key)
		}
	})
	who.OnLeave(func(key string, left, _ presence.Entry) {
		if len(left.Metas) == 0 {
			p.printf("* %s has gone", key)
		}
	})

	s.OnState(func(st socket.State) {
		if st.Status == socket.Waiting {
			p.printf("* no connection (%v), next try in %v", st.Cause, time.Until(st.Until).Round(time.Millisecond))
		}
	})
}
