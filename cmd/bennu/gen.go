package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) genCommand() *cobra.Command {
	gen := &cobra.Command{
		Use:   "gen",
		Short: "Write code for clients of a Go program",
		Args:  cobra.NoArgs,
	}
	gen.AddCommand(a.genTSCommand())
	return gen
}

func (a *app) genTSCommand() *cobra.Command {
	var g generator
	cmd := &cobra.Command{
		Use:   "ts PACKAGE [ROUTES]",
		Short: "Write the types of a program's channels as TypeScript",
		Long: "ts writes a module for pages, with the types of the channels of a Go package: see package tsgen.\n" +
			"ROUTES is a Go expression of the type channel.Routes. It uses the package by its name, and is a call\n" +
			"of its function Routes if it is left out. The command compiles and runs a program that evaluates it,\n" +
			"so it needs the go command, and the package must not be a program itself.",
		Example: `  bennu gen ts ./poll -o page/channels
  bennu gen ts ./poll 'poll.New("").Routes()' -o page/channels --check`,
		Args: cobra.RangeArgs(1, 2),
		RunE: action(func(ctx context.Context, args []string) error {
			g.pkg = args[0]
			if len(args) > 1 {
				g.routes = args[1]
			}
			return a.genTS(ctx, g)
		}),
	}
	cmd.Flags().StringVarP(&g.out, "out", "o", "channels", "write to this path, with the extensions .mjs and .d.mts")
	cmd.Flags().BoolVar(&g.check, "check", false, "fail if the files are not current, and write nothing")
	return cmd
}

// generator is what gen ts does.
type generator struct {
	pkg, routes string
	out         string
	check       bool
}

// genTS runs a program that calls tsgen.Main. It is in a directory of the package, so that it may
// import internal packages, but this directory exists for the go command only.
func (a *app) genTS(ctx context.Context, g generator) error {
	found, err := findPackage(ctx, g.pkg)
	if err != nil {
		return err
	}
	if found.Name == "main" {
		return usage("gen ts: %s is a program: move the routes to a package that can be imported", found.ImportPath)
	}
	if g.routes == "" {
		g.routes = found.Name + ".Routes()"
	}
	temp, err := os.MkdirTemp("", "bennu-gen-")
	if err != nil {
		return fmt.Errorf("gen ts: %w", err)
	}
	defer func() { _ = os.RemoveAll(temp) }()
	source, list := filepath.Join(temp, "main.go"), filepath.Join(temp, "overlay.json")
	dir := filepath.Join(found.Dir, "bennu_gen_ts")
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(dir, "main.go"): source}})
	if err != nil {
		return fmt.Errorf("gen ts: %w", err)
	}
	program := fmt.Sprintf("package main\n\nimport (\n\t%s %q\n\t%q\n)\n\nfunc main() {\n\ttsgen.Main(%s)\n}\n",
		found.Name, found.ImportPath, "bennu.example/tsgen", g.routes)
	for name, text := range map[string][]byte{source: []byte(program), list: overlay} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			return fmt.Errorf("gen ts: %w", err)
		}
	}
	args := []string{"run", "-overlay", list, dir, "-o", g.out}
	if g.check {
		args = append(args, "-check")
	}
	run := exec.CommandContext(ctx, "go", args...)
	run.Stdout, run.Stderr = a.stdout, a.stderr
	if err := run.Run(); err != nil {
		if context.Cause(ctx) != nil {
			return context.Cause(ctx)
		}
		return refused("gen ts: no types of %s were written: %w", g.routes, err)
	}
	return nil
}

// goPackage is what the go command says about a package.
type goPackage struct{ Dir, ImportPath, Name string }

func findPackage(ctx context.Context, pattern string) (goPackage, error) {
	var found goPackage
	var stderr strings.Builder
	list := exec.CommandContext(ctx, "go", "list", "-json=Dir,ImportPath,Name", "--", pattern)
	list.Stderr = &stderr
	out, err := list.Output()
	switch {
	case context.Cause(ctx) != nil:
		return found, context.Cause(ctx)
	case err != nil && stderr.Len() > 0:
		return found, usage("gen ts: %s", strings.TrimSpace(stderr.String()))
	case err != nil:
		return found, usage("gen ts: go list: %v", err)
	}
	if err := json.Unmarshal(out, &found); err != nil {
		return found, usage("gen ts: %s is not one package", pattern)
	}
	return found, nil
}
