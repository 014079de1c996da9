package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"bennu.example/presence"
)

func (a *app) presenceCommand() *cobra.Command {
	var o options
	var params string
	var follow bool
	cmd := &cobra.Command{
		Use:   "presence URL TOPIC",
		Short: "List who is present in a channel",
		Long: "presence joins a channel and prints the presences that the server pushes, one per line. To the\n" +
			"server it is a client as any other: many channels track it, too.",
		Example: `  bennu presence localhost:4000/socket room:lobby --params '{"user":"eve"}'
  bennu presence localhost:4000/socket room:lobby -p '{"user":"eve"}' --follow`,
		Args: cobra.ExactArgs(2),
		RunE: action(func(ctx context.Context, args []string) error {
			err := a.presence(ctx, args[0], args[1], &o, params, follow)
			if follow {
				err = quietInterrupt(err)
			}
			return err
		}),
	}
	o.add(cmd.Flags())
	cmd.Flags().StringVarP(&params, "params", "p", "", "params of the join, a JSON object")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "stay, and print who comes and goes")
	return cmd
}

// presence lists the presences of a topic, and prints the changes if follow is true.
func (a *app) presence(ctx context.Context, url, topic string, o *options, params string, follow bool) error {
	join, err := joinParams(params)
	if err != nil {
		return err
	}
	s, err := a.connect(ctx, url, o)
	if err != nil {
		return err
	}
	defer s.close()
	c := s.Channel(topic, join)
	who := presence.NewClient(c, nil)
	defer who.Close()
	synced := make(chan struct{}, 1)
	listed := false // guarded as all else in the callbacks: they do not run concurrently
	show := func(kind, key string, e presence.Entry) {
		if listed {
			s.p.printNow(presenceLine(kind, topic, key, e))
		}
	}
	who.OnJoin(func(key string, current, joined presence.Entry) {
		if joined.Metas = unknown(joined.Metas, current.Metas); len(joined.Metas) > 0 {
			show("join", key, joined)
		}
	})
	who.OnLeave(func(key string, _, left presence.Entry) { show("leave", key, left) })
	who.OnSync(func() {
		if !listed && who.Synced() {
			for key, e := range who.All() {
				s.p.write(presenceLine("present", topic, key, e))
			}
			listed = true
			synced <- struct{}{}
		}
	})
	if follow {
		s.watchConnection()
	}
	if _, err := s.join(c); err != nil {
		return err
	}
	go s.endWith(c)
	late := time.NewTimer(o.timeout)
	defer late.Stop()
	select {
	case <-synced:
	case <-late.C:
		return refused("%s: the server has pushed no %s within %v: does this channel use Presence?",
			printable(topic), presence.EventState, o.timeout)
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
	if !follow {
		return nil
	}
	<-s.ctx.Done()
	return context.Cause(s.ctx)
}

// unknown returns the metas that are not among known. A client receives its own presence twice.
func unknown(metas, known []presence.Meta) (left []presence.Meta) {
	refs := map[string]bool{}
	for _, m := range known {
		refs[m.Ref] = true
	}
	for _, m := range metas {
		if !refs[m.Ref] {
			left = append(left, m)
		}
	}
	return left
}

// presenceLine returns the line of a key: one that is present, joins or leaves.
func presenceLine(kind, topic, key string, e presence.Entry) line {
	metas, err := marshal(e.Metas)
	if err != nil {
		metas = []byte("[]")
	}
	sign := map[string]string{"present": "", "join": "+ ", "leave": "- "}[kind]
	text := sign + printable(key)
	if n := len(e.Metas); n > 1 {
		text += fmt.Sprintf(" ×%d", n)
	}
	text += " " + printable(string(metas))
	return line{Type: kind, Topic: topic, Key: key, Metas: json.RawMessage(metas), text: text}
}
