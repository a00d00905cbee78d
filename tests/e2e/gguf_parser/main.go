// Prints what gguf-parser-go estimates for GGUF files, with all layers on one GPU.
//
// Reads cases as JSON from the file that the first argument names, and prints one line of JSON for each. Built and run
// by tests/e2e/test_fit_peers.py.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	parser "github.com/gpustack/gguf-parser-go"
)

type query struct {
	Path           string `json:"path"`
	Context        int32  `json:"context"`
	Parallel       int32  `json:"parallel"`
	KvType         string `json:"kv_type"`
	FlashAttention bool   `json:"flash_attention"`
}

var types = map[string]parser.GGMLType{
	"f16": parser.GGMLTypeF16, "q8_0": parser.GGMLTypeQ8_0, "q4_0": parser.GGMLTypeQ4_0,
}

func main() {
	text, err := os.ReadFile(os.Args[1])
	check(err)
	var queries []query
	check(json.Unmarshal(text, &queries))
	files := map[string]*parser.GGUFFile{}
	for _, one := range queries {
		file, known := files[one.Path]
		if !known {
			file, err = parser.ParseGGUFFile(one.Path)
			check(err)
			files[one.Path] = file
		}
		options := []parser.GGUFRunEstimateOption{
			parser.WithLLaMACppContextSize(one.Context * one.Parallel),
			parser.WithParallelSize(one.Parallel),
			parser.WithLLaMACppCacheKeyType(types[one.KvType]),
			parser.WithLLaMACppCacheValueType(types[one.KvType]),
			parser.WithLLaMACppLogicalBatchSize(512),
			parser.WithLLaMACppPhysicalBatchSize(512),
		}
		if one.FlashAttention {
			options = append(options, parser.WithFlashAttention())
		}
		device := file.EstimateLLaMACppRun(options...).Devices[1]
		weights := device.Weight.Input + device.Weight.Compute + device.Weight.ComputeOverridden + device.Weight.Output
		fmt.Printf("{\"weights\": %d, \"kv\": %d}\n", uint64(weights), uint64(device.KVCache.Key+device.KVCache.Value))
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
