// Lifts a live stream of 2D keypoints with libposelift: frames in, poses out, one by one.
//
//   cargo build --release -p poselift-capi
//   cc -std=c11 -Iruntime/capi/include examples/c/live.c -o live -Ltarget/release -lposelift -lm
//   LD_LIBRARY_PATH=target/release ./live MODEL.onnx ort|tract WIDTH HEIGHT < FRAMES
//
// A frame is a line of its time in seconds and 17 times "x y confidence" in pixels; a line of the time alone is a frame in which
// nobody is seen. For each pose a line comes out: time, delay, and x y z of the 17 joints in the world in millimetres.
#include <poselift.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(void) {
  fprintf(stderr, "%s\n", poselift_last_error());
  exit(1);
}

static void print_poses(poselift_stream *stream) {
  poselift_pose pose;
  int got;
  while ((got = poselift_poll(stream, &pose)) == 1) {
    printf("%.6f %.6f", pose.time_s, pose.delay_s);
    for (int j = 0; j < POSELIFT_JOINTS; ++j) {
      printf(" %.3f %.3f %.3f", pose.world_mm[j][0], pose.world_mm[j][1], pose.world_mm[j][2]);
    }
    printf("\n");
  }
  if (got < 0) fail();
}

int main(int count, char **arguments) {
  if (count != 5) {
    fprintf(stderr, "usage: %s MODEL.onnx ort|tract WIDTH HEIGHT < FRAMES\n", arguments[0]);
    return 2;
  }
  int engine = strcmp(arguments[2], "tract") == 0 ? POSELIFT_ENGINE_TRACT : POSELIFT_ENGINE_ORT;
  poselift_model *model = poselift_model_open(arguments[1], engine, 1);
  if (!model) fail();

  poselift_options options = poselift_default_options();
  options.image_width_px = (uint32_t)atoi(arguments[3]);
  options.image_height_px = (uint32_t)atoi(arguments[4]);
  options.look_ahead = 2;
  poselift_stream *stream = poselift_open(model, &options);
  if (!stream) fail();
  poselift_model_close(model);  // the stream holds on to it

  char line[4096];
  while (fgets(line, sizeof line, stdin)) {
    float keypoints[POSELIFT_JOINTS * 3];
    char *at = line, *end;
    double time_s = strtod(at, &end);
    int numbers = 0;
    while (end != at && numbers < POSELIFT_JOINTS * 3) {
      at = end;
      float number = strtof(at, &end);
      if (end != at) keypoints[numbers++] = number;
    }
    int seen = numbers == POSELIFT_JOINTS * 3;
    // A frame that is refused changes nothing: say so and go on.
    if (poselift_push(stream, time_s, seen ? keypoints : NULL) < 0) fprintf(stderr, "%s\n", poselift_last_error());
    print_poses(stream);
  }
  if (poselift_finish(stream) < 0) fail();
  print_poses(stream);
  poselift_close(stream);
  return 0;
}
