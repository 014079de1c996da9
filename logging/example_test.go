package logging_test

import (
	"cmp"
	"log/slog"
	"os"

	"github.com/rs/zerolog"

	"bennu.example/logging"
)

// withoutTime keeps the output of the examples the same every time.
func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

func ExampleFromSlog() {
	handler := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime})
	logger := logging.FromSlog(slog.New(handler)) // such as for socket.Config.Logger

	logger.Warn().Str("topic", "room:1").Int("members", 3).Msg("join refused")
	logger.Debug().Msg("not enabled by the handler")
	// Output: level=WARN msg="join refused" topic=room:1 members=3
}

func ExampleDefault() {
	var given *zerolog.Logger // as in the zero Config
	logger := cmp.Or(given, logging.Default())
	logger.Info().Msg("not written: below the level of warnings")
	// Output:
}
