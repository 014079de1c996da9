package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"bennu.example/socket"
)

// run runs the command with these arguments and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	interrupt := ctx
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx)) // so that its cause is ours
	defer cancel(nil)
	stop := context.AfterFunc(interrupt, func() { cancel(errInterrupted) })
	defer stop()
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	var failed *commandError
	switch {
	case err == nil:
		return exitOK
	case !errors.As(err, &failed): // cobra's own: an unknown command or flag, or the number of arguments
		fmt.Fprintf(a.stderr, "bennu: %v\nusage: %s\n", err, cmd.UseLine())
		return exitUsage
	case failed.err == nil:
		return exitOK
	}
	if !errors.Is(err, errInterrupted) && !errors.Is(err, errSilent) {
		fmt.Fprintf(a.stderr, "bennu: %v\n", failed.err)
	}
	return exitCode(failed.err)
}

// commandError is an error of a command that has begun.
type commandError struct{ err error }

func (e *commandError) Error() string { return e.err.Error() }
func (e *commandError) Unwrap() error { return e.err }

// root returns the command line.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "bennu",
		Short: "Talk to Phoenix channels from a terminal, a pipe or a script",
		Long: "bennu talks to Phoenix channels from a terminal, a pipe or a script.\n\n" +
			"Output is text on a terminal and one JSON object per line elsewhere, or with --json. Messages about\n" +
			"the connection go to the standard error.\n\n" +
			"Exit codes: 0 success, 1 the server refused, 2 wrong usage, 3 no connection or no answer, 130 Ctrl-C.",
		Version:       socket.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	asJSON := root.PersistentFlags().Bool("json", false, "print JSON lines on a terminal, too")
	root.PersistentPreRun = func(*cobra.Command, []string) { a.terminal = a.terminal && !*asJSON }
	root.AddCommand(a.joinCommand(), a.watchCommand(), a.pushCommand())
	root.AddCommand(a.presenceCommand(), a.historyCommand(), a.stateCommand())
	root.AddCommand(a.doctorCommand(), a.benchCommand(), a.genCommand())
	return root
}

// action makes the function of a cobra command.
func action(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error { return &commandError{f(cmd.Context(), args)} }
}
