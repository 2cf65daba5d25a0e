// Lifts one made-up clip with ONNX Runtime's C API and our operator library.
//
//   cc -std=c11 -I$ONNXRUNTIME/include run_model.c -o run_model -L$ONNXRUNTIME/lib -lonnxruntime -lm
//   ./run_model MODEL.onnx libposelift_ops.so FRAMES DIM_IN       (FRAMES and DIM_IN: see `export inspect MODEL.onnx`)
//
// ONNXRUNTIME is an unpacked release of ONNX Runtime 1.18 or newer, which has the header and the library.
#include <math.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>

enum { JOINTS = 17 };

static const OrtApi *ort;

// Every function of the API returns a status, which is null when all is well.
static void check(OrtStatus *status) {
  if (!status) return;
  fprintf(stderr, "%s\n", ort->GetErrorMessage(status));
  ort->ReleaseStatus(status);
  exit(1);
}

// Joints of a standing person in normalised image units: x right, y down, the hip in the middle. Order of Human3.6M.
static const float STANDING[JOINTS][2] = {
    {0, 0},       {-.08f, 0},    {-.09f, .4f}, {-.1f, .8f},   {.08f, 0},     {.09f, .4f},    {.1f, .8f},     {0, -.22f},    {0, -.45f},
    {0, -.55f},   {0, -.65f},    {.15f, -.43f}, {.22f, -.2f}, {.25f, .03f}, {-.15f, -.43f}, {-.22f, -.2f}, {-.25f, .03f}};

int main(int count, char **arguments) {
  if (count != 5) {
    fprintf(stderr, "usage: %s MODEL.onnx libposelift_ops.so FRAMES DIM_IN\n", arguments[0]);
    return 2;
  }
  const int frames = atoi(arguments[3]), dim_in = atoi(arguments[4]);
  if (frames < 1 || frames > 100000 || dim_in < 2 || dim_in > 3) {
    fprintf(stderr, "expected 1 to 100000 frames and 2 or 3 values of a joint, found %d and %d\n", frames, dim_in);
    return 2;
  }
  ort = OrtGetApiBase()->GetApi(18);
  if (!ort) {
    fprintf(stderr, "this ONNX Runtime (%s) is older than 1.18\n", OrtGetApiBase()->GetVersionString());
    return 1;
  }

  OrtEnv *env;
  OrtSessionOptions *options;
  OrtSession *session;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "run_model", &env));
  check(ort->CreateSessionOptions(&options));
  // ONNX Runtime loads the library, calls its RegisterCustomOps, and unloads it after the last session.
  check(ort->RegisterCustomOpsLibrary_V2(options, arguments[2]));
  check(ort->CreateSession(env, arguments[1], options, &session));

  // (1, frames, 17, dim_in): the person sways; the third value is the confidence.
  const size_t values = (size_t)frames * JOINTS * (size_t)dim_in;
  float *input = malloc(values * sizeof *input);
  if (!input) return 1;
  for (int t = 0; t < frames; ++t) {
    for (int j = 0; j < JOINTS; ++j) {
      float *joint = input + ((size_t)t * JOINTS + (size_t)j) * (size_t)dim_in;
      joint[0] = STANDING[j][0] + 0.1f * sinf(0.2f * (float)t) * -STANDING[j][1];
      joint[1] = STANDING[j][1];
      if (dim_in > 2) joint[2] = 1.0f;
    }
  }
  const int64_t shape[] = {1, frames, JOINTS, dim_in};
  OrtMemoryInfo *memory;
  OrtValue *tensor, *result = NULL;
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(ort->CreateTensorWithDataAsOrtValue(memory, input, values * sizeof *input, shape, 4, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &tensor));

  const char *const inputs[] = {"keypoints"}, *const outputs[] = {"poses"};
  check(ort->Run(session, NULL, inputs, (const OrtValue *const *)&tensor, 1, outputs, 1, &result));
  float *poses; // (1, frames, 17, 3)
  check(ort->GetTensorMutableData(result, (void **)&poses));

  printf("frame %d of %d, relative to the hip: x right, y down, z away\n", frames / 2, frames);
  const float *pose = poses + (size_t)(frames / 2) * JOINTS * 3;
  for (int j = 0; j < JOINTS; ++j) {
    printf("%2d  %7.3f %7.3f %7.3f\n", j, pose[3 * j] - pose[0], pose[3 * j + 1] - pose[1], pose[3 * j + 2] - pose[2]);
  }

  ort->ReleaseValue(result);
  ort->ReleaseValue(tensor);
  ort->ReleaseMemoryInfo(memory);
  ort->ReleaseSession(session);
  ort->ReleaseSessionOptions(options);
  ort->ReleaseEnv(env);
  free(input);
  return 0;
}
