import { build } from 'esbuild';
import { SpinEsbuildPlugin } from '@spinframework/build-tools/plugins/esbuild/index.js';

await build({
    entryPoints: ['src/index.js'],
    outfile: 'build/bundle.js',
    bundle: true,
    format: 'esm',
    platform: 'browser',
    plugins: [await SpinEsbuildPlugin()],
});
