package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"bennu.example/push"
)

func (a *app) pushCommand() *cobra.Command {
	var o options
	var params string
	var noReply bool
	cmd := &cobra.Command{
		Use:   "push URL TOPIC EVENT [PAYLOAD]",
		Short: "Push one event, and print the reply",
		Long: "push joins a channel, pushes one event, prints the reply and ends. The payload is a JSON object;\n" +
			"it is {} if it is left out, and read from the input if it is -. The exit code is 0 if the status of\n" +
			"the reply is ok, and 1 if it is another one.",
		Example: `  bennu push localhost:4000/socket room:lobby new_msg '{"body":"hello"}' -p '{"user":"ann"}'
  bennu push localhost:4000/socket room:lobby new_msg - < message.json`,
		Args: cobra.RangeArgs(3, 4),
		RunE: action(func(ctx context.Context, args []string) error {
			return a.push(ctx, args, &o, params, noReply)
		}),
	}
	o.add(cmd.Flags())
	cmd.Flags().StringVarP(&params, "params", "p", "", "params of the join, a JSON object")
	cmd.Flags().BoolVar(&noReply, "no-reply", false, "do not wait for a reply, for events that the server does not answer")
	return cmd
}

// push pushes one event. The args are those of the command.
func (a *app) push(ctx context.Context, args []string, o *options, params string, noReply bool) error {
	join, err := joinParams(params)
	if err != nil {
		return err
	}
	text := ""
	if len(args) > 3 {
		text = args[3]
	}
	if text == "-" {
		all, err := io.ReadAll(io.LimitReader(a.stdin, maxLine+1))
		if err != nil {
			return usage("read the payload: %v", err)
		}
		if len(all) > maxLine {
			return usage("read the payload: it has more than %d bytes", maxLine)
		}
		text = string(all)
	}
	payload, err := parsePayload(text)
	if err != nil {
		return usage("%v", err)
	}
	s, err := a.connect(ctx, args[0], o)
	if err != nil {
		return err
	}
	defer s.close()
	c := s.Channel(args[1], join)
	if _, err := s.join(c); err != nil {
		return err
	}
	event := args[2]
	p := c.Push(event, payload)
	if noReply {
		if err := failedAtOnce(p); err != nil {
			return replyError("push "+printable(event), err)
		}
		return s.leave(c)
	}
	status, reply, err := result(p.Wait(s.ctx))
	switch {
	case err != nil && s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case err != nil:
		return replyError("push "+printable(event), err)
	}
	s.p.printNow(replyLine(c.Topic(), event, status, reply))
	if status != push.StatusOK {
		return &exitError{exitRefused, errSilent}
	}
	return nil
}
