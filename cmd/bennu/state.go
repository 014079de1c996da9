package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"github.com/spf13/cobra"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/state/mirror"
)

// stateOptions are the flags of all commands of state.
type stateOptions struct {
	options
	prefix string
	rev    int64 // negative means any
}

func (a *app) stateCommand() *cobra.Command {
	var o stateOptions
	show := func(follow bool) func(*cobra.Command, []string) error {
		return action(func(ctx context.Context, args []string) error {
			err := a.showState(ctx, args[0], args[1], &o, follow)
			if follow {
				err = quietInterrupt(err)
			}
			return err
		})
	}
	write := func(event string) func(*cobra.Command, []string) error {
		return action(func(ctx context.Context, args []string) error { return a.writeState(ctx, event, args, &o) })
	}
	var follow bool
	cmd := &cobra.Command{
		Use:   "state URL TOPIC",
		Short: "Show, follow and write shared documents, maps, lists and trees",
		Long: "state shows a shared object of a Bennu server (see docs/state.md): the value of a document, or the\n" +
			"items of a map, list or tree, one per line. Its subcommands write.",
		Example: `  bennu state localhost:4000/socket board:1
  bennu state localhost:4000/socket board:1 --follow
  bennu state set localhost:4000/socket board:1 title '"Plan"'
  bennu state set localhost:4000/socket cart:42 '{"apples":3}'
  bennu state delete localhost:4000/socket board:1 title`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return show(follow)(cmd, args) },
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "stay, and print the changes")
	cmd.Flags().StringVar(&o.prefix, "prefix", "", "only the keys of a map with this prefix")
	set := &cobra.Command{
		Use:   "set URL TOPIC [KEY] VALUE",
		Short: "Put the value of a document, or of a key",
		Args:  cobra.RangeArgs(3, 4),
		RunE:  write("put"),
	}
	merge := &cobra.Command{
		Use:   "merge URL TOPIC [KEY] OBJECT",
		Short: "Merge an object into a value: its members are set, and null deletes",
		Args:  cobra.RangeArgs(3, 4),
		RunE:  write("merge"),
	}
	add := &cobra.Command{
		Use:   "add URL TOPIC VALUE",
		Short: "Add an item to a map or a list, and print its key",
		Args:  cobra.ExactArgs(3),
		RunE:  write("add"),
	}
	del := &cobra.Command{
		Use:   "delete URL TOPIC [KEY]",
		Short: "Delete the value of a document, or an item",
		Args:  cobra.RangeArgs(2, 3),
		RunE:  write("del"),
	}
	for _, c := range []*cobra.Command{set, merge, del} {
		c.Flags().Int64Var(&o.rev, "if", -1, "write only if the item has this `revision`; 0 means that there must be none")
	}
	for _, c := range []*cobra.Command{cmd, set, merge, add, del} {
		o.add(c.Flags())
	}
	cmd.AddCommand(set, merge, add, del)
	return cmd
}

// stateJoin is the part of the reply to a join that says what the object is.
type stateJoin struct {
	State *struct {
		Kind string `json:"kind"`
	} `json:"$state"`
}

// kindOf joins a topic for a moment to learn what kind of object it is.
func (s *session) kindOf(topic string) (string, error) {
	c, kind, err := s.openState(topic)
	if err != nil {
		return "", err
	}
	return kind, s.leave(c)
}

// openState joins the topic of an object.
func (s *session) openState(topic string) (*channel.Client, string, error) {
	c := s.Channel(topic, map[string]any{"$state": struct{}{}})
	reply, err := s.join(c)
	if err != nil {
		return nil, "", err
	}
	var join stateJoin
	if err := reply.Decode(&join); err != nil || join.State == nil {
		return nil, "", refused("%s: the server has no shared object on this topic", printable(topic))
	}
	return c, join.State.Kind, nil
}

// showState prints an object, and its changes if follow is true.
func (a *app) showState(ctx context.Context, url, topic string, o *stateOptions, follow bool) error {
	s, err := a.connect(ctx, url, &o.options)
	if err != nil {
		return err
	}
	defer s.close()
	kind, err := s.kindOf(topic)
	if err != nil {
		return err
	}
	opening, cancel := context.WithTimeout(s.ctx, o.timeout)
	defer cancel()
	changes, m, err := openMirror(opening, s, kind, topic, &mirror.Options{Prefix: o.prefix})
	if err != nil {
		return s.stateError(topic, err)
	}
	defer m.Close(mirror.Forget)
	if follow {
		s.watchConnection()
	}
	live := false
	for change, err := range changes(s.ctx) {
		if err != nil {
			if s.ctx.Err() != nil {
				break
			}
			var overflow *channel.OverflowError
			if errors.As(err, &overflow) {
				s.p.note("%s: changes were left out, because the output is read too slowly", printable(topic))
				continue
			}
			return s.stateError(topic, err)
		}
		if change.Kind == mirror.Synced && !follow {
			return nil
		}
		if l, ok := changeLine(topic, kind, change, live); ok {
			s.p.write(l)
		}
		live = live || change.Kind == mirror.Synced
	}
	return context.Cause(s.ctx)
}

// changeLine returns the line of a change. It reports false for one that is not shown.
func changeLine(topic, kind string, c mirror.Change[json.RawMessage], live bool) (line, bool) {
	l := line{Topic: topic, Key: c.Key, Rev: c.Rev, Value: c.Value}
	name := printable(c.Key)
	if kind != "document" {
		name += " "
	}
	value := printable(string(c.Value))
	switch c.Kind {
	case mirror.Put:
		l.Type, l.text = "put", name+value
	case mirror.Move:
		l.Type, l.From, l.After = "move", c.From, c.After
		l.text = fmt.Sprintf("%s→ %s%s", printable(c.From)+" ", name, value)
	case mirror.Delete:
		l.Type, l.Value, l.Reason = "delete", nil, c.Reason
		l.text = fmt.Sprintf("- %s(%s)", name, printable(c.Reason))
	case mirror.Reset:
		l.Type, l.text = "reset", "* the object begins anew"
		return l, live
	default:
		return l, false
	}
	return l, true
}

// openMirror opens a mirror of any kind of object, and returns its changes.
func openMirror(ctx context.Context, s *session, kind, topic string, opt *mirror.Options) (
	changes func(context.Context) iter.Seq2[mirror.Change[json.RawMessage], error], m *mirror.Mirror, err error,
) {
	switch kind {
	case "document":
		d, err := mirror.OpenDocument[json.RawMessage](ctx, s, topic, nil)
		if err != nil {
			return nil, nil, err
		}
		return d.Changes, &d.Mirror, nil
	case "map":
		d, err := mirror.OpenMap[json.RawMessage](ctx, s, topic, opt)
		if err != nil {
			return nil, nil, err
		}
		return d.Changes, &d.Mirror, nil
	case "list":
		d, err := mirror.OpenList[json.RawMessage](ctx, s, topic, nil)
		if err != nil {
			return nil, nil, err
		}
		return d.Changes, &d.Mirror, nil
	case "tree":
		d, err := mirror.OpenTree(ctx, s, topic, nil)
		if err != nil {
			return nil, nil, err
		}
		return d.Changes, &d.Mirror, nil
	}
	return nil, nil, refused("this version of bennu does not know objects of the kind %q", kind)
}

// stateError explains an error of a mirror.
func (s *session) stateError(topic string, err error) error {
	switch {
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case errors.Is(err, mirror.ErrNotFound):
		return refused("%s: the object does not exist", printable(topic))
	case errors.Is(err, mirror.ErrForbidden):
		return refused("%s: the server does not allow it", printable(topic))
	}
	return replyError(printable(topic), err)
}

// writeState pushes one write. The args are those of the command.
func (a *app) writeState(ctx context.Context, event string, args []string, o *stateOptions) error {
	payload, hasKey, err := writePayload(event, args[2:], o)
	if err != nil {
		return err
	}
	s, err := a.connect(ctx, args[0], &o.options)
	if err != nil {
		return err
	}
	defer s.close()
	topic := args[1]
	c, kind, err := s.openState(topic)
	if err != nil {
		return err
	}
	switch {
	case kind == "document" && event == "add":
		return usage("%s is a document: use bennu state set", printable(topic))
	case kind == "document" && hasKey:
		return usage("%s is a document, which has no keys", printable(topic))
	case kind != "document" && !hasKey && event != "add":
		return usage("%s is a %s: name the key", printable(topic), printable(kind))
	case kind == "list" && event == "add":
		event = "insert"
	}
	status, reply, err := result(c.Push(event, payload).Wait(s.ctx))
	switch {
	case err != nil && s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case err != nil:
		return replyError("write "+printable(topic), err)
	case status != push.StatusOK:
		return refused("write %s: %s", printable(topic), replyText(&push.Error{Status: status, Payload: reply}))
	}
	s.p.printNow(line{
		Type: "written", Topic: topic, Status: status, Response: payloadJSON(reply),
		text: "written " + payloadText(reply),
	})
	return nil
}

// writePayload makes the payload of a write from the arguments after the topic.
func writePayload(event string, args []string, o *stateOptions) (p serializer.Payload, hasKey bool, err error) {
	m := map[string]any{}
	if event != "del" {
		text := args[len(args)-1]
		if !json.Valid([]byte(text)) {
			return p, false, usage(`the value %s is not JSON; a text needs quotes, such as '"Plan"'`, printable(clip(text)))
		}
		m["value"], args = json.RawMessage(text), args[:len(args)-1]
	}
	if len(args) > 0 {
		m["key"], hasKey = args[0], true
	}
	if o.rev >= 0 {
		m["if"] = o.rev
	}
	return serializer.Value(m), hasKey, nil
}
