// Streams an answer: go run . "Why do pumps vibrate?"
//
// EDGEQWEN_TARGET says where the daemon is: unix:PATH or HOST:PORT. README.md beside this file says how the package
// edgeqwenv1 is generated from protos/edgeqwen/v1.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	edgeqwenv1 "example.com/edgeqwen-example/edgeqwenv1"
)

const deadline = 2 * time.Minute

func main() {
	question := strings.Join(os.Args[1:], " ")
	if question == "" {
		question = "What is the capital of France?"
	}
	if err := chat(question); err != nil {
		said := status.Convert(err)
		fmt.Fprintf(os.Stderr, "edgeqwen-example: %s: %s\n", said.Code(), said.Message())
		os.Exit(1)
	}
}

func chat(question string) error {
	// Cancelling the context frees the slot in the daemon within one step.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()

	connection, err := grpc.NewClient(target(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()

	answer, err := edgeqwenv1.NewGenerationClient(connection).Generate(ctx, &edgeqwenv1.GenerateRequest{
		Input: &edgeqwenv1.GenerateRequest_Chat{Chat: &edgeqwenv1.Chat{
			Messages: []*edgeqwenv1.Message{{Role: "user", Content: question}},
		}},
		MaxTokens: proto.Uint32(64),
		Sampling:  &edgeqwenv1.Sampling{Temperature: proto.Float32(0)},
	})
	if err != nil {
		return err
	}
	for {
		event, err := answer.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if delta := event.GetDelta(); delta != nil {
			fmt.Print(delta.GetText())
		}
		if end := event.GetFinished(); end != nil {
			fmt.Fprintf(os.Stderr, "\n[%s, %d tokens]\n", end.GetReason(), end.GetUsage().GetCompletionTokens())
		}
	}
}

func target() string {
	if target := os.Getenv("EDGEQWEN_TARGET"); target != "" {
		return target
	}
	return "unix:/run/edgeqwen/edgeqwend.sock"
}
