package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/serializer"
)

// following are the flags of the commands that print events.
type following struct {
	options
	params string
	events []string
	count  int
	resume bool
	last   int
	since  string
}

func (o *following) add(f *pflag.FlagSet) {
	o.options.add(f)
	f.StringVarP(&o.params, "params", "p", "", "params of the join, a JSON object")
	f.StringArrayVarP(&o.events, "event", "e", nil, "print only events with this `name`; repeatable")
	f.IntVarP(&o.count, "count", "n", 0, "end after this number of events")
	f.BoolVar(&o.resume, "resume", false, "receive what was recorded while there was no connection (Bennu servers)")
	f.IntVar(&o.last, "last", 0, "begin with the newest records of the topic; implies --resume")
	f.StringVar(&o.since, "since", "", "begin with the records after this `position`; implies --resume")
}

func (a *app) joinCommand() *cobra.Command {
	var o following
	var stay, noReply bool
	cmd := &cobra.Command{
		Use:   "join URL TOPIC",
		Short: "Join a channel, print its events, and push the lines of the input",
		Long: "join joins a channel and prints its events and the replies to pushes.\n\n" +
			"Each line of the input is a push: an event, a space and a payload in JSON, which may be left out.\n" +
			"A line may also be an object {\"event\": …, \"payload\": …}. At the end of the input, join waits for\n" +
			"the replies and ends, or stays with --stay. It reconnects when the connection is lost.",
		Example: `  bennu join localhost:4000/socket room:lobby --params '{"user":"ann"}'
  echo 'new_msg {"body":"good morning"}' | bennu join localhost:4000/socket room:lobby -p '{"user":"cron"}'`,
		Args: cobra.ExactArgs(2),
		RunE: action(func(ctx context.Context, args []string) error {
			return a.follow(ctx, args[0], args[1:], &o, true, stay, noReply)
		}),
	}
	o.add(cmd.Flags())
	cmd.Flags().BoolVar(&stay, "stay", false, "stay when the input ends")
	cmd.Flags().BoolVar(&noReply, "no-reply", false, "do not wait for replies, for events that the server does not answer")
	return cmd
}

func (a *app) watchCommand() *cobra.Command {
	var o following
	cmd := &cobra.Command{
		Use:   "watch URL TOPIC…",
		Short: "Join channels and print their events, without reading the input",
		Example: `  bennu watch localhost:4000/socket room:lobby room:tea --params '{"user":"log"}' --event new_msg
  bennu watch wss://example.com/socket news:all --last 10 | jq .payload`,
		Args: cobra.MinimumNArgs(2),
		RunE: action(func(ctx context.Context, args []string) error {
			return a.follow(ctx, args[0], args[1:], &o, false, true, false)
		}),
	}
	o.add(cmd.Flags())
	return cmd
}

// follow joins topics and prints their events until the input or ctx ends.
func (a *app) follow(ctx context.Context, url string, topics []string, o *following, talk, stay, noReply bool) error {
	params, err := joinParams(o.params)
	if err != nil {
		return err
	}
	resume, err := o.resumeConfig()
	if err != nil {
		return err
	}
	if o.last < 0 || o.count < 0 {
		return usage("--last and --count must not be negative")
	}
	s, err := a.connect(ctx, url, &o.options)
	if err != nil {
		return quietInterrupt(err)
	}
	defer s.close()
	s.watchConnection()
	events := &eventPrinter{session: s, names: o.events, left: o.count, several: len(topics) > 1}
	rooms := make([]*channel.Client, 0, len(topics))
	for _, topic := range topics {
		c := s.Channel(topic, params)
		if resume != nil {
			r := *resume
			r.OnReset = func(_ serializer.Payload, why string) { events.reset(topic, why) }
			c.Resume(r)
		}
		events.follow(c)
		rooms = append(rooms, c)
	}
	for _, c := range rooms {
		if _, err := s.join(c); err != nil {
			return quietInterrupt(err)
		}
		go s.endWith(c)
	}
	if talk {
		err = s.talk(a.stdin, rooms[0], noReply)
	}
	if stay {
		<-s.ctx.Done()
	}
	if s.ctx.Err() != nil {
		err = context.Cause(s.ctx)
	}
	return quietInterrupt(err)
}

// quietInterrupt makes Ctrl-C the normal end of a command that follows something.
func quietInterrupt(err error) error {
	if errors.Is(err, errInterrupted) || errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// errEnough ends a command that has printed as much as it was asked for.
var errEnough = errors.New("enough")

// endWith ends the session when the server closes a channel for good.
func (s *session) endWith(c *channel.Client) {
	select {
	case <-c.Done():
		_, err := c.State()
		if errors.Is(err, channel.ErrLeft) {
			return
		}
		s.end(closedError(c.Topic(), err))
	case <-s.ctx.Done():
	}
}

// resumeConfig returns nil if the events are not to be resumed.
func (o *following) resumeConfig() (*channel.ResumeConfig, error) {
	r := &channel.ResumeConfig{Last: o.last}
	if o.since != "" {
		var err error
		if r.Since, err = history.ParsePosition(o.since); err != nil {
			return nil, usage("--since %s: not a position, such as q7hx2c9k-129-0m0a", o.since)
		}
	}
	if !o.resume && o.last == 0 && o.since == "" {
		return nil, nil
	}
	return r, nil
}

// eventPrinter prints the events of channels.
type eventPrinter struct {
	*session
	names   []string // empty means all
	left    int      // how many events are still wanted; zero means no bound. Guarded by turn
	several bool     // there are several topics
	turn    chan struct{}
}

// follow prints the events of a channel. It must be called before Join, and in turn for each.
func (e *eventPrinter) follow(c *channel.Client) {
	if e.turn == nil {
		e.turn = make(chan struct{}, 1)
	}
	topic := c.Topic()
	c.OnJoin(func(reply serializer.Payload) {
		e.p.printNow(line{
			Type: "joined", Topic: topic, Response: payloadJSON(reply),
			text: fmt.Sprintf("* joined %s %s", printable(topic), payloadText(reply)),
		})
	})
	c.OnMessage(func(m serializer.Message) {
		if len(e.names) > 0 && !slices.Contains(e.names, m.Event) {
			return
		}
		e.turn <- struct{}{} // the channels of several topics have callbacks of their own
		defer func() { <-e.turn }()
		if e.ctx.Err() != nil {
			return
		}
		e.p.printNow(e.event(topic, m))
		if e.left > 0 {
			if e.left--; e.left == 0 {
				e.end(errEnough)
			}
		}
	})
	first := true
	c.OnError(func(err error) {
		var overflow *channel.OverflowError
		var remote *channel.RemoteError
		var refusal *push.Error
		switch {
		case errors.As(err, &overflow):
			e.p.note("%s: events were dropped, because the output is read too slowly", printable(topic))
		case errors.As(err, &remote):
			e.p.note("%s: the channel crashed; joining again", printable(topic))
		case errors.As(err, &refusal) && !first:
			e.p.note("%s: join refused: %s; trying again", printable(topic), replyText(refusal))
		}
		first = false
	})
}

// event returns the line of an event.
func (e *eventPrinter) event(topic string, m serializer.Message) line {
	l := line{Type: "event", Topic: topic, Event: m.Event}
	payload := m.Payload
	if !payload.IsBinary() {
		var pos string
		if member, rest, ok := payload.Cut("$pos"); ok && member.Decode(&pos) == nil {
			l.Pos, payload = pos, rest
		}
	}
	l.Payload = payloadJSON(payload)
	l.text = fmt.Sprintf("%s %s", printable(m.Event), payloadText(payload))
	if e.several {
		l.text = printable(topic) + " " + l.text
	}
	return l
}

// reset notes that events may be missing before those that follow.
func (e *eventPrinter) reset(topic, why string) {
	switch why {
	case "new":
	case "off":
		e.p.note("%s: the server does not record this topic: what is missed without a connection is lost", printable(topic))
	default:
		e.p.note("%s: events may be missing here (%s)", printable(topic), printable(why))
	}
}
