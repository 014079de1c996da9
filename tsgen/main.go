package tsgen

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"bennu.example/channel"
)

// Main is the main function of a program that writes the types of routes. It has the flags -o, the
// path of the files without their extensions (default "channels"), and -check, which only compares
// them. It exits with status 1 if that fails or the files differ.
func Main(routes channel.Routes) {
	if err := run(os.Args[1:], os.Stderr, routes); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			_, _ = fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}

func run(args []string, stderr io.Writer, routes channel.Routes) error {
	flags := flag.NewFlagSet("tsgen", flag.ContinueOnError)
	flags.SetOutput(stderr)
	out := flags.String("o", "channels", "write to this path, with the extensions .mjs and .d.mts")
	check := flags.Bool("check", false, "fail if the files are not current, and write nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("tsgen: unexpected argument %q", flags.Arg(0))
	}
	types, module, err := Generate(routes)
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{*out + ".d.mts": types, *out + ".mjs": module} {
		old, err := os.ReadFile(name)
		switch {
		case err == nil && bytes.Equal(old, text):
		case *check:
			return fmt.Errorf("tsgen: %s is not current", name)
		default:
			if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
				return fmt.Errorf("tsgen: %w", err)
			}
			if err := os.WriteFile(name, text, 0o644); err != nil {
				return fmt.Errorf("tsgen: %w", err)
			}
		}
	}
	return nil
}
